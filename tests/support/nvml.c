/* A libnvidia-ml.so.1 with three GPUs: the second tells no power, the third is divided into parts (MIG), of which there
   is one. With NVML_INIT=fails there is no driver, with NVML_INIT=hangs the driver never answers. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9 };
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned long long total, free, used; } Memory;
static const char *const ids[] = {"GPU-1a11", "GPU-2b22", "GPU-3c33", "MIG-4d44"};

static long place(void *device) { return (long)device - 1; }

int nvmlInitWithFlags(unsigned flags) {
    const char *how = getenv("NVML_INIT");
    while (how && !strcmp(how, "hangs")) pause();
    return how ? DRIVER_NOT_LOADED : OK;
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(index + 1L);
    return index < 3 ? OK : INVALID_ARGUMENT;
}
int nvmlDeviceGetHandleByUUID(const char *id, void **device) {
    for (long index = 0; index < 4; index++)
        if (!strcmp(id, ids[index])) { *device = (void *)(index + 1); return OK; }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *device, char *id, unsigned size) { strncpy(id, ids[place(device)], size); return OK; }
int nvmlDeviceGetUtilizationRates(void *device, Rates *rates) {
    rates->gpu = 10 * (place(device) + 1);
    return place(device) < 2 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    memory->total = 80000000000ull;
    memory->used = 8000000000ull * (place(device) + 1);
    return OK;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 100000;
    return place(device) == 0 || place(device) == 2 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
    *milliwatts = 400000;
    return place(device) == 0 ? OK : NOT_SUPPORTED;
}
