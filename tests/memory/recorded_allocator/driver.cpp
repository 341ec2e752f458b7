// Runs a tape on standard input ("a BYTES", "f INDEX-OF-ALLOCATION", "e 0" for empty_cache) through the allocator and
// prints after each event: ok or oom, the address, then bytes allocated, reserved and requested, the peaks of the first
// two, and the number of retries.
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/PeerToPeerAccess.h>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

int main() {
  c10::cuda::CUDACachingAllocator::init(1);
  c10::cuda::detail::init_p2p_access_cache(1);
  auto* allocator = c10::cuda::CUDACachingAllocator::get();
  std::vector<void*> pointers;
  std::string kind;
  size_t value;
  while (std::cin >> kind >> value) {
    void* pointer = nullptr;
    bool failed = false;
    if (kind == "a") {
      try {
        pointer = allocator->raw_alloc(value);
      } catch (const c10::OutOfMemoryError&) {
        failed = true;
      }
      pointers.push_back(pointer);
    } else if (kind == "e") {
      allocator->emptyCache();
    } else if (pointers[value]) {
      allocator->raw_delete(pointers[value]);
      pointers[value] = nullptr;
    }
    auto stats = allocator->getDeviceStats(0);
    std::printf("%s %zu %ld %ld %ld %ld %ld %ld\n", failed ? "oom" : "ok", (size_t)pointer,
                (long)stats.allocated_bytes[0].current, (long)stats.reserved_bytes[0].current,
                (long)stats.requested_bytes[0].current, (long)stats.allocated_bytes[0].peak,
                (long)stats.reserved_bytes[0].peak, (long)stats.num_alloc_retries);
  }
}
