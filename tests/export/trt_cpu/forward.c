/* One library under the three names that TensorRT's Python bindings link (libnvinfer, libnvonnxparser,
 * libnvinfer_plugin). Its entry points go to TensorRT-RTX, which has the same classes, parser and compiler and needs no GPU
 * to compile. CORE and PARSER are the full paths of TensorRT-RTX's two libraries; compiled without them, every entry
 * point gives NULL, which is enough to import bindings and look at what they hold. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef CORE
#define CORE NULL
#define PARSER NULL
#endif

static void *entry(const char *library, const char *name) {
    if (!library) return NULL;
    void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    void *found = handle ? dlsym(handle, name) : NULL;
    if (!found) {
        fprintf(stderr, "forward.c: %s: %s\n", name, dlerror());
        exit(70);
    }
    return found;
}

/* Each library accepts its own version number only, so the caller's is replaced by it. */
static int number(const char *library, const char *name) {
    int (*ask)(void) = (int (*)(void))entry(library, name);
    return ask ? ask() : 0;
}
#define CORE_NUMBER number(CORE, "getInferLibVersion")
#define PARSER_NUMBER (entry(CORE, "getInferLibVersion"), number(PARSER, "getNvOnnxParserVersion"))

#define MAKE2(name, library, version)                                    \
    void *name(void *a, int caller) {                                    \
        void *(*make)(void *, int) = (void *(*)(void *, int))entry(library, #name); \
        (void)caller;                                                    \
        return make ? make(a, version) : NULL;                           \
    }
#define MAKE3(name, library, version)                                    \
    void *name(void *a, void *b, int caller) {                           \
        void *(*make)(void *, void *, int) = (void *(*)(void *, void *, int))entry(library, #name); \
        (void)caller;                                                    \
        return make ? make(a, b, version) : NULL;                        \
    }

MAKE2(createInferBuilder_INTERNAL, CORE, CORE_NUMBER)
MAKE2(createInferRuntime_INTERNAL, CORE, CORE_NUMBER)
MAKE3(createInferRefitter_INTERNAL, CORE, CORE_NUMBER)
MAKE3(createNvOnnxParser_INTERNAL, PARSER, PARSER_NUMBER)
MAKE3(createNvOnnxParserRefitter_INTERNAL, PARSER, PARSER_NUMBER)

int getNvOnnxParserVersion(void) { return PARSER_NUMBER; }
int initLibNvInferPlugins(void *logger, const char *name_space) { return logger || name_space ? 1 : 1; }
void *getPluginRegistry(void) {
    void *(*get)(void) = (void *(*)(void))entry(CORE, "getPluginRegistry");
    return get ? get() : NULL;
}
void *getBuilderPluginRegistry(int capability) {
    void *(*get)(int) = (void *(*)(int))entry(CORE, "getBuilderPluginRegistry");
    return get ? get(capability) : NULL;
}
