// A stand-in for the CUDA runtime: enough of it for torch's caching allocator to keep its books on a machine without a
// GPU. FAKE_TOTAL is the memory of the device in bytes, FAKE_ADDRESSES=descending turns the order of segments around.
// With -DNVML this file is a stand-in for libnvidia-ml instead.
#ifdef NVML
#define OK(name) int name(void) { return 0; }
OK(nvmlInit_v2) OK(nvmlDeviceGetHandleByPciBusId_v2) OK(nvmlDeviceGetNvLinkRemoteDeviceType)
OK(nvmlDeviceGetNvLinkRemotePciInfo_v2) OK(nvmlDeviceGetComputeRunningProcesses) OK(nvmlSystemGetCudaDriverVersion_v2)
OK(nvmlDeviceGetGpuFabricInfoV)
#else
#include <cuda.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "cuda_runtime_api.h"

#define STEP 0x200000ull
#define MOST 1000000
static size_t total = 80ull << 30, used = 0, count = 0;
static uintptr_t next_address = 0x700000000000ull;
static int descending = 0;
static struct { uintptr_t address; size_t size; } segments[MOST];

__attribute__((constructor)) static void start(void) {
  const char *bytes = getenv("FAKE_TOTAL"), *order = getenv("FAKE_ADDRESSES");
  if (bytes) total = strtoull(bytes, 0, 10);
  descending = order && !strcmp(order, "descending");
}

static uintptr_t place(size_t size) {
  size_t whole = (size + STEP - 1) / STEP * STEP;
  uintptr_t address = descending ? next_address - whole : next_address;
  next_address = descending ? address : address + whole;
  return address;
}

cudaError_t cudaMalloc(void **pointer, size_t size) {
  *pointer = 0;
  if (used + size > total || count == MOST) return cudaErrorMemoryAllocation;
  used += size;
  segments[count].address = place(size);
  segments[count].size = size;
  *pointer = (void *)segments[count++].address;
  return 0;
}

cudaError_t cudaFree(void *pointer) {
  for (size_t i = 0; i < count; i++)
    if (segments[i].address == (uintptr_t)pointer) {
      used -= segments[i].size;
      segments[i] = segments[--count];
      return 0;
    }
  return pointer ? cudaErrorInvalidValue : 0;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *all) { *available = total - used; *all = total; return 0; }
cudaError_t cudaGetDeviceCount(int *devices) { *devices = 1; return 0; }
cudaError_t cudaGetDevice(int *device) { *device = 0; return 0; }
cudaError_t cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { *event = (cudaEvent_t)1; return 0; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
const char *cudaGetErrorString(cudaError_t error) { return "stand-in"; }
const char *cudaGetErrorName(cudaError_t error) { return "stand-in"; }

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return 0;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  memset(properties, 0, sizeof *properties);
  properties->totalGlobalMem = total;
  properties->major = 8;
  return 0;
}

// The driver's functions behind expandable segments.
static CUresult reserve(CUdeviceptr *p, size_t size, size_t a, CUdeviceptr b, unsigned long long c) { *p = place(size); return 0; }
static CUresult create(CUmemGenericAllocationHandle *handle, size_t size, const void *p, unsigned long long flags) {
  if (used + size > total) return CUDA_ERROR_OUT_OF_MEMORY;
  used += size;
  *handle = size;
  return 0;
}
static CUresult release(CUmemGenericAllocationHandle handle) { used -= handle; return 0; }
static CUresult granularity(size_t *size, const void *p, int option) { *size = STEP; return 0; }
static CUresult attribute(int *value, int which, CUdevice device) { *value = 0; return 0; }
static CUresult error_string(CUresult error, const char **text) { *text = "stand-in"; return 0; }
static CUresult nothing(void) { return 0; }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
  if (result) *result = cudaDriverEntryPointSuccess;
  *function = !strcmp(name, "cuMemAddressReserve") ? (void *)reserve
      : !strcmp(name, "cuMemCreate") ? (void *)create
      : !strcmp(name, "cuMemRelease") ? (void *)release
      : !strcmp(name, "cuMemGetAllocationGranularity") ? (void *)granularity
      : !strcmp(name, "cuDeviceGetAttribute") ? (void *)attribute
      : !strcmp(name, "cuGetErrorString") ? (void *)error_string
      : (void *)nothing;
  return 0;
}

// What the library links against and this harness never reaches with an effect.
#undef cudaStreamGetCaptureInfo
#undef cudaGraphNodeGetDependencies
#define NOTHING(name) __asm__(".globl " #name "\n.type " #name ",@function\n" #name ":\nxorl %eax,%eax\nret\n");
NOTHING(cudaSetDevice) NOTHING(cudaGetLastError) NOTHING(cudaDeviceSynchronize) NOTHING(cudaStreamSynchronize)
NOTHING(cudaThreadExchangeStreamCaptureMode) NOTHING(cudaStreamQuery) NOTHING(cudaEventQuery) NOTHING(cudaEventRecord)
NOTHING(cudaEventSynchronize) NOTHING(cudaEventDestroy) NOTHING(cudaDeviceCanAccessPeer) NOTHING(cudaMemcpy)
NOTHING(cudaDeviceEnablePeerAccess) NOTHING(cudaDeviceGetDefaultMemPool) NOTHING(cudaEventElapsedTime)
NOTHING(cudaFreeAsync) NOTHING(cudaGraphNodeGetDependencies) NOTHING(cudaIpcCloseMemHandle) NOTHING(cudaMemcpyAsync)
NOTHING(cudaIpcGetMemHandle) NOTHING(cudaIpcOpenMemHandle) NOTHING(cudaMallocAsync) NOTHING(cudaMemPoolGetAttribute)
NOTHING(cudaMemPoolSetAccess) NOTHING(cudaMemPoolSetAttribute) NOTHING(cudaMemPoolTrimTo) NOTHING(cudaStreamWaitEvent)
NOTHING(cudaMemcpyPeerAsync) NOTHING(cudaStreamCreateWithPriority) NOTHING(cudaStreamGetCaptureInfo)
#endif
