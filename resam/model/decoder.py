"""SAM's prompt encoder and mask decoder as one module that decodes all prompts of an image in one batch.

It computes what segment-anything's `PromptEncoder` and `MaskDecoder` compute (single-mask output) from their own
parameters, re-associated so that the image tokens are touched as little as possible. With T prompt tokens, h
heads and HW image tokens (HW >> hT):

* first layer: the keys are the same for every prompt, so their projections are computed once per image;
* later layers, tokens to image: (q W_k) X^T instead of q (X W_k^T)^T, and (A X) W_v^T instead of A (X W_v^T), so
  that no projection of the image tokens X is ever made (the key bias cancels in the softmax, the value bias
  passes through it because a row of A sums to 1);
* image to tokens: the same on the query side, and the output projection is applied to the T values before they
  are spread over the image; in the first layer the T keys of all heads form one block-diagonal matrix. So the scores of
  all heads come out of one product, in the order in which they are needed;
* after the last attention only the two tokens that are read out take part;
* upscaling: both transposed convolutions have kernel = stride, so they are matrix products per token; pixels are
  put in their places at the very end, when one channel is left.

Also unlike the package, the result for a prompt does not depend on how far it was padded: tokens labelled -1 are
kept out of every attention, and SAM's own not-a-point token is appended where a prompt holds no box.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import nn
from torch.nn import functional as F

from resam.model.full_precision import full_precision

MASKED = -1e4  # added to the score of a token that must not be seen: exp() of it is 0, and fp16 can hold it


class PromptDecoder(nn.Module):
    """Prompts and an embedding in, mask logits and predicted IoU out (SAM's single-mask output)."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.image_size = int(sam.image_encoder.img_size)

    def forward(
        self,
        embedding: torch.Tensor,
        point_coords: torch.Tensor,
        point_labels: torch.Tensor,
        ends_in_corner: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode N prompts.

        embedding: (B, C, G, G) float; N must be a multiple of B, and image b owns prompts b*N/B ... (b+1)*N/B - 1.
        point_coords: (N, P, 2) float, (x, y) in tile pixels, pixel centres at integers.
        point_labels: (N, P) int; 1 positive, 0 negative, 2 box top-left, 3 box bottom-right, -1 padding.
        ends_in_corner: the last place of every prompt holds a box's corner or padding, as Requery's do. The same
        results with one token less: SAM's not-a-point token goes where the last place is padding.

        Returns logits (N, 4G, 4G) and scores (N,), the predicted IoU (about 0..1, not clipped).
        """
        keys, weights, scores = self._read(embedding, point_coords, point_labels, ends_in_corner)
        return self._masks(keys, weights, point_coords, point_labels), scores

    def every_mask(
        self, embedding: torch.Tensor, point_coords: torch.Tensor, point_labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All K = 1 + `multimask_outputs` masks of each prompt: the single one first, then those for ambiguous prompts.

        Arguments as in `forward`. Returns logits (N, K, 4G, 4G) and scores (N, K); the first is what `forward` returns.
        """
        count = int(self.mask_decoder.num_mask_tokens)
        queries, keys = self._attend(embedding, point_coords, point_labels, False, read=1 + count)
        scores = self.mask_decoder.iou_prediction_head(queries[:, 0])
        networks = self.mask_decoder.output_hypernetworks_mlps
        weights = torch.stack([network(queries[:, 1 + place]) for place, network in enumerate(networks)], dim=1)
        return self._upscale(keys, weights), scores

    def _read(
        self, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, ends_in_corner: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a prompt's mask is made of, image tokens (N, HW, C) and weights (N, C/8), and its score (N,)."""
        queries, keys = self._attend(embedding, coords, labels, ends_in_corner, read=2)
        scores = self.mask_decoder.iou_prediction_head(queries[:, 0])[:, 0]
        return keys, self.mask_decoder.output_hypernetworks_mlps[0](queries[:, 1]), scores

    def _attend(
        self, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, ends_in_corner: bool, read: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first `read` tokens (N, read, C), of which the first holds the predicted IoU and the next the masks,
        and the image tokens (N, HW, C), after all attention."""
        decoder = self.mask_decoder
        tokens, bias = self._tokens(coords, labels, ends_in_corner)  # (N, T, C), (N, 1, 1, T)
        # (B, HW, C); the dense prompt of "no mask" is one vector for every token
        keys = embedding.flatten(2).transpose(1, 2) + self.prompt_encoder.no_mask_embed.weight
        position = self.positions().flatten(2).transpose(1, 2).to(keys.dtype)  # (1, HW, C)

        queries, shared = tokens, True
        for layer in decoder.transformer.layers:
            queries, keys = _two_way_block(layer, queries, keys, tokens, position, bias, shared)
            shared = False
        final = decoder.transformer.final_attn_token_to_image
        queries, tokens = queries[:, :read], tokens[:, :read]
        queries = queries + _few_tokens_to_image(final, queries + tokens, keys, position)
        return decoder.transformer.norm_final_attn(queries), keys

    def positions(self) -> torch.Tensor:
        """Position encoding of the image tokens, (1, C, G, G)."""
        with full_precision(self.prompt_encoder.no_mask_embed.weight):
            return self.prompt_encoder.get_dense_pe()

    def _tokens(
        self, coords: torch.Tensor, labels: torch.Tensor, ends_in_corner: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output tokens and prompt tokens (N, T, C), and the score bias (N, 1, 1, T) that hides padding."""
        encoder, decoder = self.prompt_encoder, self.mask_decoder
        with full_precision(coords):
            encoding = encoder.pe_layer._pe_encoding((coords + 0.5) / self.image_size)
        for kind in range(encoder.num_point_embeddings):
            encoding = encoding + (labels == kind).unsqueeze(-1) * encoder.point_embeddings[kind].weight
        count = coords.shape[0]
        padding, has_box = (labels < 0).to(encoding.dtype), (labels >= 2).to(encoding.dtype).amax(dim=1, keepdim=True)
        last = encoder.not_a_point_embed.weight.expand(count, 1, -1)
        if ends_in_corner:
            free = padding[:, -1:]  # (N, 1)
            last = torch.where(free.unsqueeze(-1) > 0, last, encoding[:, -1:])
            encoding, padding, has_box = encoding[:, :-1], padding[:, :-1], has_box * free
        output = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))  # (1 + masks, C)
        tokens = torch.cat((output.expand(count, -1, -1), encoding, last), dim=1)
        # a prompt with a box has no use for the not-a-point token
        hidden = torch.cat((padding.new_zeros(1, output.shape[0]).expand(count, -1), padding, has_box), dim=1)
        return tokens, (hidden * MASKED)[:, None, None, :]

    def _masks(
        self, keys: torch.Tensor, weights: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Logits (N, 4G, 4G) of what `_read` gives and the prompts, for decoders that make a mask where these say."""
        return self._upscale(keys, weights.unsqueeze(1))[:, 0]

    def _upscale(self, keys: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Image tokens (N, HW, C) and weights of K masks (N, K, C/8) -> logits (N, K, 4G, 4G)."""
        count, tokens, _ = keys.shape
        logits = (self._cells(keys) @ weights.transpose(1, 2)).reshape(count, tokens, 16, -1)  # (N, HW, 16, K)
        return _in_place(logits)

    def _cells(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens (B, R, C) -> features of their 16 cells (B, 16 R, C/8), those of a token ordered dy1, dx1, dy2,
        dx2. In three dimensions throughout: so are products that the exporter makes in integers."""
        first, norm, activation, second, last_activation = self.mask_decoder.output_upscaling
        batch, count, _ = tokens.shape
        x = tokens @ _as_matrix(first) + first.bias.repeat(4)  # (B, R, 4 * C/4)
        x = x.reshape(batch, count * 4, -1)
        x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        x = last_activation(x @ _as_matrix(second) + second.bias.repeat(4))
        return x.reshape(batch, count * 16, -1)


def _in_place(logits: torch.Tensor) -> torch.Tensor:
    """Logits (N, HW, 16, K), a token's cells ordered dy1, dx1, dy2, dx2 -> (N, K, 4G, 4G)."""
    count, tokens, _, masks = logits.shape
    grid = math.isqrt(tokens)
    # (N, row, column, dy1, dx1, dy2, dx2, K) -> rows together, columns together
    logits = logits.reshape(count, grid, grid, 2, 2, 2, 2, masks).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return logits.reshape(count, masks, 4 * grid, 4 * grid)


def _two_way_block(
    layer: TwoWayAttentionBlock,
    queries: torch.Tensor,
    keys: torch.Tensor,
    tokens: torch.Tensor,
    position: torch.Tensor,
    bias: torch.Tensor,
    shared: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One `TwoWayAttentionBlock`. `shared`: keys are (B, HW, C), one set per image, else (N, HW, C)."""
    if layer.skip_first_layer_pe:
        queries = _self_attention(layer.self_attn, queries, queries, bias)
    else:
        queries = queries + _self_attention(layer.self_attn, queries + tokens, queries, bias)
    queries = layer.norm1(queries)
    placed = keys + position
    to_image = _tokens_to_shared_image if shared else _tokens_to_image
    queries = layer.norm2(queries + to_image(layer.cross_attn_token_to_image, queries + tokens, keys, placed))
    queries = layer.norm3(queries + layer.mlp(queries))
    to_tokens = _shared_image_to_tokens if shared else _image_to_tokens
    attended = to_tokens(layer.cross_attn_image_to_token, placed, queries + tokens, queries, bias)
    if shared:  # (B, HW, C) meets (N, HW, C)
        count, batch = attended.shape[0], keys.shape[0]
        attended = attended.reshape(batch, count // batch, *attended.shape[1:]) + keys.unsqueeze(1)
        return queries, layer.norm4(attended.flatten(0, 1))
    return queries, layer.norm4(keys + attended)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, L, h*d) -> (N, h, L, d)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _merge(x: torch.Tensor) -> torch.Tensor:
    """(N, h, L, d) -> (N, L, h*d)."""
    return x.transpose(1, 2).flatten(2)


def _scaled_query(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """Projected queries (N, h, L, d), already divided by sqrt(d)."""
    scale = 1.0 / math.sqrt(attention.internal_dim // attention.num_heads)
    return _heads(attention.q_proj(x) * scale, attention.num_heads)


def _scaled_key(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """Projected keys (N, h, T, d), already divided by sqrt(d): cheaper than dividing the scores."""
    scale = 1.0 / math.sqrt(attention.internal_dim // attention.num_heads)
    return _heads(attention.k_proj(x) * scale, attention.num_heads)


def _per_head(linear: nn.Linear, heads: int) -> torch.Tensor:
    """The weight of an input projection, (h, d, C)."""
    return linear.weight.reshape(heads, -1, linear.weight.shape[1])


def _self_attention(attention: Attention, qk: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    heads = attention.num_heads
    scores = _scaled_query(attention, qk) @ _heads(attention.k_proj(qk), heads).transpose(2, 3) + bias
    return attention.out_proj(_merge(scores.softmax(-1) @ _heads(attention.v_proj(v), heads)))


def _tokens_to_shared_image(
    attention: Attention, q: torch.Tensor, keys: torch.Tensor, placed: torch.Tensor
) -> torch.Tensor:
    """Tokens (N, T, C) attend to image tokens (B, HW, C) that all prompts of an image share.

    placed: the image tokens plus their position encoding; so in the functions below.
    """
    heads, batch, count, length = attention.num_heads, keys.shape[0], q.shape[0], q.shape[1]
    k = _heads(attention.k_proj(placed), heads)
    v = _heads(attention.v_proj(keys), heads)
    # all prompts of an image in one matrix product: (B, h, N/B * T, d)
    query = _scaled_query(attention, q.reshape(batch, (count // batch) * length, q.shape[2]))
    out = (query @ k.transpose(2, 3)).softmax(-1) @ v
    return attention.out_proj(_merge(out)).reshape(count, length, -1)


def _tokens_to_image(attention: Attention, q: torch.Tensor, keys: torch.Tensor, placed: torch.Tensor) -> torch.Tensor:
    """Tokens (N, T, C) attend to image tokens (N, HW, C) without projecting the image tokens."""
    absorbed = _absorbed(_scaled_query(attention, q), attention.k_proj, attention.num_heads)
    return _gathered(attention, absorbed @ placed.transpose(1, 2), keys)


def _few_tokens_to_image(
    attention: Attention, q: torch.Tensor, keys: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """As `_tokens_to_image`, where T is so small that the positions cost less apart: their projection is constant."""
    heads, query = attention.num_heads, _scaled_query(attention, q)  # (N, h, T, d)
    positions = _heads(F.linear(position, attention.k_proj.weight), heads)  # (1, h, HW, d)
    scores = _absorbed(query, attention.k_proj, heads) @ keys.transpose(1, 2)
    return _gathered(attention, scores + (query @ positions.transpose(2, 3)).flatten(1, 2), keys)


def _absorbed(x: torch.Tensor, projection: nn.Linear, heads: int) -> torch.Tensor:
    """(N, h, T, d) times the weight that the other side would be projected with: (N, hT, C)."""
    return (x @ _per_head(projection, heads)).flatten(1, 2)


def _gathered(attention: Attention, scores: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Scores (N, hT, HW) and image tokens (N, HW, C) -> what the T tokens gather, projected out, (N, T, C)."""
    heads, channels = attention.num_heads, keys.shape[2]
    gathered = (scores.softmax(-1) @ keys).reshape(keys.shape[0], heads, -1, channels)
    gathered = gathered @ _per_head(attention.v_proj, heads).transpose(1, 2)  # (N, h, T, d)
    return attention.out_proj(_merge(gathered) + attention.v_proj.bias)


def _image_to_tokens(
    attention: Attention, placed: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Image tokens (N, HW, C) attend to tokens (N, T, C) without being projected; returns (N, HW, C)."""
    heads, key = attention.num_heads, _scaled_key(attention, k)
    own = key @ attention.q_proj.bias.reshape(heads, -1, 1) + bias.transpose(2, 3)  # (N, h, T, 1)
    scores = placed @ _absorbed(key, attention.q_proj, heads).transpose(1, 2) + own.reshape(own.shape[0], 1, -1)
    return _spread(attention, scores, v)


def _shared_image_to_tokens(
    attention: Attention, placed: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """As `_image_to_tokens`, for image tokens (B, HW, C) that all prompts of an image share."""
    batch, count = placed.shape[0], k.shape[0]
    query = _with_ones(attention.q_proj(placed)).unsqueeze(1)  # (B, 1, HW, hd + 1)
    key = _block_diagonal(_scaled_key(attention, k), bias)  # (N, hd + 1, hT)
    scores = query @ key.reshape(batch, count // batch, *key.shape[1:])  # (B, N/B, HW, hT)
    return _spread(attention, scores.flatten(0, 1), v)


def _with_ones(x: torch.Tensor) -> torch.Tensor:
    """(..., c) -> (..., c + 1), the last channel 1: it meets the bias row of `_block_diagonal`."""
    return torch.cat((x, x.new_ones(1, 1, 1).expand(*x.shape[:-1], 1)), dim=-1)


def _block_diagonal(key: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Keys (N, h, T, d) and bias (N, 1, 1, T) -> (N, hd + 1, hT): each head's keys in its own block, then the bias."""
    count, heads, length, channels = key.shape
    own = torch.eye(heads, dtype=key.dtype, device=key.device).reshape(heads, 1, heads, 1)
    blocks = key.permute(0, 3, 1, 2).unsqueeze(1) * own  # (N, h, d, h, T)
    biases = bias.reshape(count, 1, 1, length).expand(-1, 1, heads, -1).reshape(count, 1, heads * length)
    return torch.cat((blocks.reshape(count, heads * channels, heads * length), biases), dim=1)


def _spread(attention: Attention, scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Scores (N, HW, hT) and tokens v (N, T, C) -> the attended values (N, HW, C), projected out."""
    heads, length = attention.num_heads, v.shape[1]
    value = _heads(attention.v_proj(v), heads)  # (N, h, T, d)
    weights = scores.reshape(*scores.shape[:2], heads, length).softmax(-1).flatten(2)  # (N, HW, hT)
    out_weight = attention.out_proj.weight.reshape(-1, heads, value.shape[-1]).permute(1, 2, 0)  # (h, d, C)
    # every row of weights sums to h: a share of the bias in each value is the bias in the sum
    return weights @ (value @ out_weight + attention.out_proj.bias / heads).flatten(1, 2)


def _as_matrix(convolution: nn.ConvTranspose2d) -> torch.Tensor:
    """Weight of a 2 x 2, stride 2 transposed convolution as a matrix (C_in, 4 * C_out), order dy, dx, C_out."""
    weight = convolution.weight
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
