// What the libraries of CUDA answer where torch looks at the answer: handles, versions, one algorithm.
#include <stdint.h>
#include <string.h>
#include <stdlib.h>
/* handles must not be null */
#define MAKE(name) int name(void **h) { *h = malloc(4096); memset(*h, 0, 4096); return 0; }
#ifdef LIB_cublas
MAKE(cublasCreate_v2)
int cublasGetMathMode(void *h, int *m) { *m = 0; return 0; }
int cublasGetPointerMode_v2(void *h, int *m) { *m = 0; return 0; }
#endif
#ifdef LIB_cublasLt
int cublasLtMatmulDescCreate(void **h, int a, int b) { *h = calloc(1, 4096); return 0; }
int cublasLtMatrixLayoutCreate(void **h, int a, uint64_t b, uint64_t c, int64_t d) { *h = calloc(1, 4096); return 0; }
int cublasLtMatmulPreferenceCreate(void **h) { *h = calloc(1, 4096); return 0; }
int cublasLtMatmulDescDestroy(void *h) { free(h); return 0; }
int cublasLtMatrixLayoutDestroy(void *h) { free(h); return 0; }
int cublasLtMatmulPreferenceDestroy(void *h) { free(h); return 0; }
size_t cublasLtGetVersion(void) { return 130002; }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *dd, void *p, int want, void *results, int *got) {
  memset(results, 0, 64); *got = 1; return 0; }
#endif
#ifdef LIB_cudnn
MAKE(cudnnCreate)
size_t cudnnGetVersion(void) { return 91900; }
size_t cudnnGetCudartVersion(void) { return 13000; }
int cudnnGetProperty(int t, int *v) { *v = t == 0 ? 9 : t == 1 ? 19 : 0; return 0; }
const char *cudnnGetErrorString(int s) { return "stand-in"; }
void cudnnGetLastErrorString(char *m, size_t n) { if (n) *m = 0; }
/* batch norm needs no workspace and keeps nothing of its own, as plans of convolutions */
int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void *h, int m, int o, void *x, void *z, void *y, void *b, void *a, size_t *n) { *n = 0; return 0; }
int cudnnGetBatchNormalizationBackwardExWorkspaceSize(void *h, int m, int o, void *x, void *y, void *dy, void *dz, void *dx, void *b, void *a, size_t *n) { *n = 0; return 0; }
int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *h, int m, int o, void *a, void *x, size_t *n) { *n = 0; return 0; }
#endif
