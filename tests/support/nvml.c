/* A libnvidia-ml.so.1 with three GPUs: the second tells no power, the third is divided into parts (MIG), of which there
   is one. With NVML_INIT=fails there is no driver, with NVML_INIT=hangs the driver never answers. With NVML_GPUS=N there
   are N GPUs (GPU-00, GPU-01, ...) without programs, except those whose digits the file NVML_BUSY has. With NVML_MIG=1
   the last one is divided into two instances (MIG-00, MIG-01). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned long long total, free, used; } Memory;
enum { FIRST_PART = 100 };
static const char *const ids[] = {"GPU-1a11", "GPU-2b22", "GPU-3c33", "MIG-4d44"};

static long place(void *device) { return (long)device - 1; }
static int simulated(void) { const char *text = getenv("NVML_GPUS"); return text ? atoi(text) : 0; }
static int is_busy(long index) {
    const char *path = getenv("NVML_BUSY");
    FILE *file = path ? fopen(path, "r") : NULL;
    int found = 0;
    for (int digit; file && (digit = fgetc(file)) != EOF;) found |= digit == '0' + index;
    if (file) fclose(file);
    return found;
}
static void name_id(long index, char *id, unsigned size) {
    if (!simulated()) strncpy(id, ids[index], size);
    else if (index >= FIRST_PART) snprintf(id, size, "MIG-%02ld", index - FIRST_PART);
    else snprintf(id, size, "GPU-%02ld", index);
}

int nvmlInitWithFlags(unsigned flags) {
    const char *how = getenv("NVML_INIT");
    while (how && !strcmp(how, "hangs")) pause();
    return how ? DRIVER_NOT_LOADED : OK;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = simulated() ? simulated() : 3;
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(index + 1L);
    return index < (unsigned)(simulated() ? simulated() : 3) ? OK : INVALID_ARGUMENT;
}
int nvmlDeviceGetHandleByUUID(const char *id, void **device) {
    char own[16];
    for (long index = 0; index < FIRST_PART + 2; index++) {
        if (!simulated() && index > 3) break;
        name_id(index, own, sizeof own);
        if (!strcmp(id, own)) { *device = (void *)(index + 1); return OK; }
    }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *device, char *id, unsigned size) { name_id(place(device), id, size); return OK; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) {
    strncpy(name, place(device) >= FIRST_PART ? "Simulated MIG 1g.10gb" : "Simulated GPU", size);
    return OK;
}
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    *current = *pending = getenv("NVML_MIG") && place(device) == simulated() - 1;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { (void)device; *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    (void)device;
    *part = (void *)(FIRST_PART + index + 1L);
    return index < 2 ? OK : NOT_FOUND;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *processes) {
    unsigned had = *count;
    *count = is_busy(place(device));
    if (processes) memset(processes, 0, 24 * *count);
    return had < *count ? INSUFFICIENT_SIZE : OK;
}
int nvmlDeviceGetUtilizationRates(void *device, Rates *rates) {
    rates->gpu = 10 * (place(device) + 1);
    return place(device) < 2 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    memory->total = 80000000000ull;
    memory->used = simulated() ? 400000000ull : 8000000000ull * (place(device) + 1);
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
