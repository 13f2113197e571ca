"""What was measured, written down and shown: documents, tables, plots, pages, comparisons."""
