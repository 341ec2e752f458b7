// A stand-in for the CUDA runtime: torch's own CUDA build runs on it without a GPU. Kernels are launched into nothing, but
// all host code is real, and so is every request to the caching allocator. Device memory is an address range that is
// reserved and mostly never touched; copies of up to 1 MiB are carried out, larger ones are not. A single byte that is
// read back is a truth value a kernel would have computed: FAKE_BOOL says which (1), FAKE_ANY what any() says, FAKE_NAN
// what isnan() says of a float, FAKE_EQUAL whether two integers are equal (as FAKE_BOOL). FAKE_NONZERO="100:60 50:30"
// says how many of 100 and of 50 elements are not zero (all), entries of one number in turn. All but FAKE_BOOL are read
// when they are asked for, so that a process can set them itself.
// FAKE_SM, FAKE_SMS, FAKE_THREADS, FAKE_OPTIN and FAKE_TOTAL describe the GPU, FAKE_ADDRESSES=descending turns the order of
// segments around.
#define _GNU_SOURCE
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "cuda_runtime_api.h"
#undef cudaGetDeviceProperties
#undef cudaStreamGetCaptureInfo
#undef cudaGraphGetNodes

#define STEP 0x200000ull
#define MOST 1000000
#define DATA (1u << 20)
static size_t total = 80ull << 30, used = 0, count = 0;
static uintptr_t base, next_address;
static int sm = 90, sms = 132, threads = 2048, optin = 232448, descending = 0, trace = 0;
static size_t persm = 233472;
static struct { uintptr_t address; size_t size; int device; } segments[MOST];
/* FAKE_DEVICES cards of FAKE_TOTAL bytes each. */
static __thread int current;
static size_t used_on[16];
#define RANGE (1ull << 44)
static int truth;

static long number(const char *name, long other) { const char *t = getenv(name); return t ? atol(t) : other; }
__attribute__((constructor)) static void start(void) {
  total = number("FAKE_TOTAL", total); sm = number("FAKE_SM", sm); sms = number("FAKE_SMS", sms);
  threads = number("FAKE_THREADS", threads); optin = number("FAKE_OPTIN", optin); trace = number("FAKE_TRACE", 0); truth = number("FAKE_BOOL", 1);
  const char *order = getenv("FAKE_ADDRESSES"); descending = order && !strcmp(order, "descending");
  base = (uintptr_t)mmap((void *)0x200000000000ull, RANGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  base = (base + STEP - 1) / STEP * STEP;
  next_address = descending ? base + RANGE - STEP * 4 : base;
}
static int on_device(const void *p) { return (uintptr_t)p >= base && (uintptr_t)p < base + RANGE; }
static uintptr_t place(size_t size) {
  size_t whole = (size + STEP - 1) / STEP * STEP;
  uintptr_t address = descending ? next_address - whole : next_address;
  next_address = descending ? address : address + whole;
  return address;
}
cudaError_t cudaMalloc(void **pointer, size_t size) {
  *pointer = 0;
  if (used_on[current] + size > total || count == MOST) return cudaErrorMemoryAllocation;
  used += size; used_on[current] += size;
  segments[count].address = place(size); segments[count].size = size; segments[count].device = current;
  *pointer = (void *)segments[count++].address;
  if (trace) fprintf(stderr, "cudaMalloc %zu\n", size);
  return 0;
}
cudaError_t cudaFree(void *pointer) {
  for (size_t i = 0; i < count; i++)
    if (segments[i].address == (uintptr_t)pointer) {
      used -= segments[i].size; used_on[segments[i].device] -= segments[i].size; segments[i] = segments[--count]; return 0;
    }
  return pointer ? cudaErrorInvalidValue : 0;
}
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) { return cudaMalloc(p, n); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { return cudaFree(p); }
cudaError_t cudaMemGetInfo(size_t *available, size_t *all) { *available = total - used_on[current]; *all = total; return 0; }
cudaError_t cudaGetDeviceCount(int *devices) { *devices = number("FAKE_DEVICES", 1); return 0; }
cudaError_t cudaGetDevice(int *device) { *device = current; return 0; }
cudaError_t cudaSetDevice(int d) { current = d; return 0; }
cudaError_t cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; return 0; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return 0; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { *event = (cudaEvent_t)1; return 0; }
cudaError_t cudaEventCreate(cudaEvent_t *event) { *event = (cudaEvent_t)1; return 0; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { *ms = 1; return 0; }
cudaError_t cudaStreamCreate(cudaStream_t *s) { static uintptr_t n = 0x100; *s = (cudaStream_t)(n += 16); return 0; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) { return cudaStreamCreate(s); }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *p) { *p = 0; return 0; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
const char *cudaGetErrorString(cudaError_t error) { return "stand-in error"; }
const char *cudaGetErrorName(cudaError_t error) { return "stand-in"; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) { *status = cudaStreamCaptureStatusNone; return 0; }
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *g, const cudaGraphNode_t **d, const cudaGraphEdgeData **e, size_t *n) { *status = cudaStreamCaptureStatusNone; if (id) *id = 0; return 0; }
#else
cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *g, const cudaGraphNode_t **d, size_t *n) { *status = cudaStreamCaptureStatusNone; if (id) *id = 0; return 0; }
#endif
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) { return 0; }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) { *p = malloc(n); return 0; }
cudaError_t cudaMallocManaged(void **p, size_t n, unsigned f) { *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); return 0; }
cudaError_t cudaFreeHost(void *p) { free(p); return 0; }
cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) { strncpy(s, "0000:00:00.0", n); return 0; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return 0; }

static void fill(struct cudaDeviceProp *p) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Stand-in GPU");
  p->totalGlobalMem = total; p->major = sm / 10; p->minor = sm % 10; p->multiProcessorCount = sms;
  p->maxThreadsPerMultiProcessor = threads; p->maxThreadsPerBlock = 1024; p->warpSize = 32;
  p->sharedMemPerBlock = 49152; p->sharedMemPerBlockOptin = optin; p->sharedMemPerMultiprocessor = optin + 1024;
  p->regsPerBlock = 65536; p->regsPerMultiprocessor = 65536;
  p->maxThreadsDim[0] = 1024; p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = 65535; p->maxGridSize[2] = 65535;
  p->maxBlocksPerMultiProcessor = threads == 2048 ? 32 : threads == 1024 ? 16 : 24; p->l2CacheSize = 50 << 20; p->textureAlignment = 512;
  p->memoryBusWidth = 5120; p->canMapHostMemory = 1; p->concurrentKernels = 1; p->unifiedAddressing = 1;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) { fill(p); return 0; }
#if CUDART_VERSION < 13000
cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *p, int d) { fill(p); return 0; }
#endif
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) {
  switch (a) {
    case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
    case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: *v = 1024; break;
    case cudaDevAttrMaxGridDimX: *v = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *v = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = optin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = optin + 1024; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrMultiProcessorCount: *v = sms; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = threads; break;
    case cudaDevAttrComputeCapabilityMajor: *v = sm / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *v = sm % 10; break;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: *v = 65536; break;
    case cudaDevAttrL2CacheSize: *v = 50 << 20; break;
    case cudaDevAttrUnifiedAddressing: *v = 1; break;
    default: *v = 0;
  }
  return 0;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->ptxVersion = sm == 89 ? 86 : sm; a->binaryVersion = a->ptxVersion; a->maxDynamicSharedSizeBytes = 49152;
  return 0;
}
cudaError_t cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int v) { return 0; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int block, size_t dyn, unsigned flags) {
  int m = threads == 2048 ? 32 : threads == 1024 ? 16 : 24; *n = threads / block; if (*n > m) *n = m; if (*n < 1) *n = 1; return 0;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int block, size_t dyn) { return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n, f, block, dyn, 0); }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  if (on_device(p)) { a->type = cudaMemoryTypeDevice; a->devicePointer = (void *)p; for (size_t i = 0; i < count; i++) if ((uintptr_t)p >= segments[i].address && (uintptr_t)p < segments[i].address + segments[i].size) a->device = segments[i].device; } else { a->type = cudaMemoryTypeUnregistered; a->hostPointer = (void *)p; }
  return 0;
}
/* what the host reads of the device and a kernel would have computed: the kind of the last kernel says what it is */
enum { OTHER, ANY, NAN, EQUAL, COUNT };
static const struct { const char *part; int kind; const char *answer; } kinds[] = {
  {"14or_kernel_cuda", ANY, "FAKE_ANY"}, {"16CompareEqFunctorIfE", NAN, "FAKE_NAN"},
  {"16CompareEqFunctorIlE", EQUAL, "FAKE_EQUAL"}, {"9NonZeroOpI", COUNT, 0},
};
static int last_kind, counted = -1;
static int truth_of(int kind) {
  for (int i = 0; i < 3; i++) if (kinds[i].kind == kind) return number(kinds[i].answer, truth);
  return truth;
}
static int count_nonzero(int elements) {
  static int turns[64];
  const char *entry = getenv("FAKE_NONZERO");
  int of, found, at = 0, matching = 0, chosen[64], places[64];
  for (int read; entry && at < 64 && sscanf(entry, "%d:%d%n", &of, &found, &read) == 2; entry += read, at++)
    if (of == elements) { chosen[matching] = found; places[matching++] = at; }
  if (!matching) return elements;
  return chosen[turns[places[0]]++ % matching];
}
static void copy(void *to, const void *from, size_t n) {
  int reads = on_device(from) && !on_device(to);
  if (reads && n == 1) *(char *)to = truth_of(last_kind);
  else if (reads && n == 4 && counted >= 0) { *(int *)to = counted; counted = -1; }
  else if (n <= DATA) memcpy(to, from, n);
  else if (!on_device(to)) memset(to, 0, n);
}
cudaError_t cudaMemcpy(void *d, const void *s, size_t n, enum cudaMemcpyKind k) { copy(d, s, n); return 0; }
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind k, cudaStream_t st) { copy(d, s, n); return 0; }
cudaError_t cudaMemcpyPeerAsync(void *d, int dd, const void *s, int sd, size_t n, cudaStream_t st) { copy(d, s, n); return 0; }
cudaError_t cudaMemset(void *d, int v, size_t n) { if (n <= DATA) memset(d, v, n); return 0; }
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t s) { if (n <= DATA) memset(d, v, n); return 0; }
cudaError_t cudaGetSymbolAddress(void **p, const void *s) { static char room[65536]; *p = room; return 0; }

/* kernels: registered and launched into nothing */
static struct { dim3 grid, block; size_t shared; void *stream; } pushed;
void **__cudaRegisterFatBinary(void *f) { static void *h[2]; return h; }
void __cudaRegisterFatBinaryEnd(void **h) {}
void __cudaUnregisterFatBinary(void **h) {}
/* kernels whose names have one of the parts above: any() is a reduction with or_kernel_cuda, nonzero counts with CUB */
static struct { const void *kernel; int kind; } told[8192];
static int told_count;
void __cudaRegisterFunction(void **h, const char *a, char *b, const char *c, int t, void *x, void *y, void *z, void *w, int *s) {
  for (int i = 0; i < 4; i++)
    if (told_count < 8192 && strstr(c, kinds[i].part) && (kinds[i].kind != COUNT || strstr(c, "DeviceReduce"))) {
      told[told_count].kernel = a; told[told_count++].kind = kinds[i].kind;
    }
}
static void launched(const void *f, void **arguments) {
  last_kind = OTHER;
  for (int i = 0; i < told_count; i++) if (told[i].kernel == f) last_kind = told[i].kind;
  if (last_kind == COUNT) counted = count_nonzero(*(int *)arguments[2]); /* input, output, number of elements */
}
void __cudaRegisterVar(void **h, char *a, char *b, const char *c, int e, size_t s, int k, int g) {}
char __cudaInitModule(void **h) { return 1; }
unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, struct CUstream_st *st) { pushed.grid = g; pushed.block = b; pushed.shared = s; pushed.stream = st; return 0; }
cudaError_t __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *s, void *st) { *g = pushed.grid; *b = pushed.block; *s = pushed.shared; *(void **)st = pushed.stream; return 0; }
cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f) { *k = (cudaKernel_t)f; return 0; }
cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t s, cudaStream_t st) { launched((const void *)k, a); return 0; }
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, cudaStream_t st) { launched(f, a); return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **p, unsigned v, unsigned long long f, enum cudaDriverEntryPointQueryResult *r) {
  extern int fake_driver(void); *p = (void *)fake_driver; if (r) *r = cudaDriverEntryPointSuccess; return 0; }
cudaError_t cudaGetDriverEntryPoint(const char *name, void **p, unsigned long long f, enum cudaDriverEntryPointQueryResult *r) {
  extern int fake_driver(void); *p = (void *)fake_driver; if (r) *r = cudaDriverEntryPointSuccess; return 0; }
int fake_driver(void) { return 0; }
