#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cudnn_graph.h"
// cuDNN's backend: every descriptor is a block of memory, every graph has one plan, plans need no workspace of their own.
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t t, cudnnBackendDescriptor_t *d) { int *p = calloc(1, 4096); p[0] = t; *d = (cudnnBackendDescriptor_t)p; return 0; }
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) { free(d); return 0; }
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d) { return 0; }
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t n, cudnnBackendAttributeType_t t, int64_t c, const void *a) { return 0; }
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t p, cudnnBackendDescriptor_t v) { return 0; }
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const d, cudnnBackendAttributeName_t n, cudnnBackendAttributeType_t t, int64_t want, int64_t *count, void *a) {
  int64_t dummy; if (!count) count = &dummy;
  *count = 0;
  if (getenv("FAKE_CUDNN_TRACE")) fprintf(stderr, "cudnn get desc %d attr %d type %d want %ld\n", *(int *)d, n, t, (long)want);
  switch (n) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: case CUDNN_ATTR_ENGINECFG_ENGINE: *count = 1; return 0;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE: *count = 1; if (a) *(int64_t *)a = 0; return 0;
    case CUDNN_ATTR_ENGINECFG_SHARED_MEMORY_USED: *count = 1; if (a) *(int32_t *)a = 0; return 0;
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX: *count = 1; if (a) *(int64_t *)a = 1; return 0;
    case CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION: { const char *j = "{}"; *count = 3; if (a) memcpy(a, j, want < 3 ? want : 3); return 0; }
    default: if (a && want > 0 && t == CUDNN_TYPE_INT64) memset(a, 0, 8 * want); return 0;
  }
}
