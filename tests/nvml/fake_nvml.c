/* A libnvidia-ml.so.1 that does what a test tells it.
 *
 * FAKE_NVML_CONTROL names a file of "key value" lines, read again at every call:
 *   gpus N            GPUs on the machine (default 2)
 *   <function>[:gpu] hang | <number>   the function never returns, or returns that code
 *   field:<id> <number>  that field returns the code
 *   value:<id> <number>  that field's value; type:<id> 1 makes it 32 bits wide
 *   metric:<id> <number> that GPM metric's value; gpm 0: no GPM
 *   util N, reasons N    utilisation in percent, clock event bits
 *   mig:<gpu> N          slices of the GPU; mig:<gpu> -1 or no line: MIG off
 *   xid:<gpu> N          an event with that XID, once for each new value of "serial"
 *   links N, down N      NVLink links, and how many of them are inactive
 *   driver N             every call returns that code (1 = reloaded)
 * FAKE_NVML_LOG names a file that gets a line "function gpu" for every call.
 * -DOLD_DRIVER leaves out what a driver of the 470 series does not have. -DFIXED reads the control file once.
 * -DDEAR takes the CPU that driver 580 takes for an H100.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_GPUS 16
#define MAX_SLICES 7
#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define TIMEOUT 10

typedef int Return;
typedef struct { int gpu, slice; } Entity;
typedef Entity *Device;
typedef struct { double at; int gpu, slice; } Sample;

static Entity gpus[MAX_GPUS], slices[MAX_GPUS][MAX_SLICES];
static __thread char control[8192];
static int ready;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void load(void) {
#ifdef FIXED
    if (control[0]) return;
#endif
    const char *path = getenv("FAKE_NVML_CONTROL");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    control[0] = '\n';
    ssize_t size = file < 0 ? 0 : read(file, control + 1, sizeof control - 2);
    control[1 + (size > 0 ? size : 0)] = 0;
    if (file >= 0) close(file);
}

static const char *find(const char *key) {
    char line[160];
    snprintf(line, sizeof line, "\n%s ", key);
    char *at = strstr(control, line);
    return at ? at + strlen(line) : NULL;
}

static double number(const char *key, double otherwise) {
    const char *at = find(key);
    return at ? strtod(at, NULL) : otherwise;
}

static double keyed(const char *key, int which, double otherwise) {
    char full[64];
    snprintf(full, sizeof full, "%s:%d", key, which);
    return number(full, otherwise);
}

/* Microseconds of CPU, as they were seen on an H100 with driver 580.159. */
static void burn(double microseconds) {
#ifdef DEAR
    for (double end = now() + microseconds * 1e-6; now() < end;) {}
#else
    (void)microseconds;
#endif
}

static void hang(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (;;) pause();
}

/* The scripted return code of a call; OK where nothing is scripted. */
static Return enter(const char *function, int gpu) {
    const char *path = getenv("FAKE_NVML_LOG");
    if (path) {
        char line[128];
        int size = snprintf(line, sizeof line, "%s %d\n", function, gpu);
        int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (file >= 0) { if (write(file, line, size) < 0) abort(); close(file); }
    }
    load();
    char full[128];
    snprintf(full, sizeof full, "%s:%d", function, gpu);
    const char *what = find(full);
    if (!what) what = find(function);
    if (what && !strncmp(what, "hang", 4)) hang();
    if (what) return atoi(what);
    Return driver = number("driver", OK);
    if (driver) return driver;
    return keyed("lost", gpu, 0) ? 15 : OK;
}

#define ENTER(gpu) do { Return code = enter(__func__, gpu); if (code) return code; } while (0)

Return nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    ENTER(-1);
    for (int g = 0; g < MAX_GPUS; g++) {
        gpus[g] = (Entity){g, -1};
        for (int s = 0; s < MAX_SLICES; s++) slices[g][s] = (Entity){g, s};
    }
    ready = 1;
    return OK;
}
Return nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(Return code) { (void)code; return "scripted"; }
Return nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "999.99"); return OK; }
Return nvmlDeviceGetCount_v2(unsigned *count) { ENTER(-1); *count = number("gpus", 2); return OK; }
Return nvmlDeviceGetHandleByIndex_v2(unsigned gpu, Device *out) {
    ENTER(gpu);
    if (!ready || gpu >= number("gpus", 2)) return INVALID_ARGUMENT;
    *out = &gpus[gpu];
    return OK;
}
Return nvmlDeviceGetHandleByPciBusId_v2(const char *bus, Device *out) {
    unsigned domain, which;
    if (sscanf(bus, "%x:%x", &domain, &which) != 2) return INVALID_ARGUMENT;
    ENTER(which - 0x10);
    *out = &gpus[which - 0x10];
    return OK;
}
Return nvmlDeviceGetUUID(Device d, char *out, unsigned size) {
    ENTER(d->gpu);
    if (d->slice < 0) snprintf(out, size, "GPU-%08d", d->gpu);
    else snprintf(out, size, "MIG-%08d-%d", d->gpu, d->slice);
    return OK;
}
Return nvmlDeviceGetIndex(Device d, unsigned *out) { ENTER(d->gpu); *out = d->gpu; return OK; }
Return nvmlDeviceGetName(Device d, char *out, unsigned size) {
    ENTER(d->gpu);
    snprintf(out, size, d->slice < 0 ? "Fake H100" : "Fake H100 MIG 1g.10gb");
    return OK;
}
struct Pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
Return nvmlDeviceGetPciInfo_v3(Device d, struct Pci *out) {
    ENTER(d->gpu);
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", 0x10 + d->gpu);
    return OK;
}

#define GAUGE(name, value) Return name(Device d, unsigned *out) { ENTER(d->gpu); *out = (value); return OK; }
#define GAUGE_OF(name, value) \
    Return name(Device d, unsigned which, unsigned *out) { ENTER(d->gpu); (void)which; *out = (value); return OK; }
GAUGE_OF(nvmlDeviceGetTemperature, 61)
GAUGE_OF(nvmlDeviceGetClockInfo, 1755)
Return nvmlDeviceGetMaxClockInfo(Device d, unsigned which, unsigned *out) {
    ENTER(d->gpu);
    (void)which;
    burn(1950);
    *out = 1980;
    return OK;
}
GAUGE_OF(nvmlDeviceGetPcieThroughput, 1)
GAUGE(nvmlDeviceGetEnforcedPowerLimit, 700000)
GAUGE(nvmlDeviceGetPowerUsage, 300000)
GAUGE(nvmlDeviceGetCurrPcieLinkGeneration, 4)
Return nvmlDeviceGetCurrPcieLinkWidth(Device d, unsigned *out) { ENTER(d->gpu); burn(41); *out = 8; return OK; }
GAUGE(nvmlDeviceGetMaxPcieLinkGeneration, 5)
GAUGE(nvmlDeviceGetMaxPcieLinkWidth, 16)
Return nvmlDeviceGetCurrentClocksThrottleReasons(Device d, uint64_t *out) {
    ENTER(d->gpu);
    *out = number("reasons", 0);
    return OK;
}
Return nvmlDeviceGetMemoryInfo(Device d, uint64_t *out) {
    ENTER(d->gpu);
    out[0] = 80ull << 30; out[1] = 60ull << 30; out[2] = 20ull << 30;
    return OK;
}
Return nvmlDeviceGetNvLinkState(Device d, unsigned link, unsigned *out) {
    ENTER(d->gpu);
    int links = number("links", 0);
    if (!links) return NOT_SUPPORTED;
    if ((int)link >= links) return INVALID_ARGUMENT;
    *out = (int)link >= number("down", 0);
    return OK;
}
struct Process { unsigned pid; uint64_t memory; unsigned gi, ci; };
static Return processes(Device d, unsigned *count, struct Process *out) {
    unsigned have = number("processes", 1), room = *count;
    *count = have;
    if (have > room) return INSUFFICIENT_SIZE;
    for (unsigned p = 0; p < have; p++) out[p] = (struct Process){1000 + 100 * d->gpu + p, 1 << 30, 0, 0};
    return OK;
}
Return nvmlDeviceGetComputeRunningProcesses_v2(Device d, unsigned *count, struct Process *out) {
    ENTER(d->gpu);
    return processes(d, count, out);
}

struct Field { uint32_t id, scope; int64_t at, latency; unsigned type; Return code; uint64_t value; };
Return nvmlDeviceGetFieldValues(Device d, int count, struct Field *fields) {
    ENTER(d->gpu);
    if (d->slice >= 0) return NOT_SUPPORTED;
    for (int f = 0; f < count; f++) {
        int id = fields[f].id;
        burn(id == 83 ? 3300 : id == 75 ? 800 : id == 94 ? 170 : id == 197 || id == 198 ? 155 : 0);
        fields[f].code = keyed("field", id, OK);
        fields[f].type = keyed("type", id, 3);
        uint64_t value = id == 83 ? now() * 300e3 : 0;
        char key[32];
        snprintf(key, sizeof key, "value:%d", id);
        const char *scripted = find(key);
        if (scripted) value = strtoull(scripted, NULL, 10);
        /* the upper half of a 32-bit answer is whatever was there before */
        fields[f].value = fields[f].type == 1 ? (value & 0xffffffffu) | 0xdeadull << 32 : value;
    }
    return OK;
}
struct Taken { uint64_t at, value; };
Return nvmlDeviceGetSamples(Device d, unsigned kind, uint64_t since, unsigned *type, unsigned *count, struct Taken *out) {
    ENTER(d->gpu);
    burn(kind == 0 ? 620 : 2500);
    uint64_t period = 20000, newest = (uint64_t)(now() * 1e6) / period * period;
    unsigned size = 0;
    *type = 1;
    for (uint64_t at = newest - 50 * period; at <= newest && size + 1 < *count; at += period)
        if (at > since) {
            out[size++] = (struct Taken){at, kind == 0 ? 250000 : (uint64_t)number("util", 50)};
            out[size] = out[size - 1]; /* a repeated sample */
            size++;
        }
    *count = size;
    return size ? OK : NOT_FOUND;
}
Return nvmlDeviceGetUtilizationRates(Device d, unsigned *out) {
    ENTER(d->gpu);
    out[0] = number("util", 50);
    out[1] = 10;
    return OK;
}

Return nvmlDeviceGetMigMode(Device d, unsigned *current, unsigned *pending) {
    ENTER(d->gpu);
    *current = *pending = keyed("mig", d->gpu, -1) >= 0;
    return OK;
}
Return nvmlDeviceGetMaxMigDeviceCount(Device d, unsigned *out) { ENTER(d->gpu); *out = MAX_SLICES; return OK; }
Return nvmlDeviceGetMigDeviceHandleByIndex(Device d, unsigned slice, Device *out) {
    ENTER(d->gpu);
    if (slice >= keyed("mig", d->gpu, 0)) return NOT_FOUND;
    *out = &slices[d->gpu][slice];
    return OK;
}
Return nvmlDeviceGetGpuInstanceId(Device d, unsigned *out) { ENTER(d->gpu); *out = 3 + d->slice; return OK; }

struct Event { Device device; uint64_t type, data; unsigned gi, ci; };
static int delivered;
Return nvmlEventSetCreate(void **out) {
    ENTER(-1);
    *out = &ready;
    delivered = number("serial", 0);
    return OK;
}
Return nvmlEventSetFree(void *set) { (void)set; return OK; }
Return nvmlDeviceRegisterEvents(Device d, uint64_t types, void *set) { ENTER(d->gpu); (void)types; (void)set; return OK; }
Return nvmlEventSetWait_v2(void *set, struct Event *out, unsigned milliseconds) {
    (void)set;
#ifdef FIXED
    usleep(milliseconds * 1000);
    return TIMEOUT;
#endif
    for (double end = now() + milliseconds * 1e-3; now() < end; usleep(5000)) {
        ENTER(-1);
        int serial = number("serial", 0);
        if (serial == delivered) continue;
        delivered = serial;
        for (int g = 0; g < MAX_GPUS; g++) {
            int xid = keyed("xid", g, 0);
            if (!xid) continue;
            *out = (struct Event){&gpus[g], 8, xid, 0xffffffffu, 0xffffffffu};
            return OK;
        }
    }
    return TIMEOUT;
}

#ifndef OLD_DRIVER
Return nvmlDeviceGetCurrentClocksEventReasons(Device d, uint64_t *out) {
    ENTER(d->gpu);
    *out = number("reasons", 0);
    return OK;
}
struct Memory { unsigned version; uint64_t total, reserved, free, used; };
Return nvmlDeviceGetMemoryInfo_v2(Device d, struct Memory *out) {
    ENTER(d->gpu);
    out->total = 80ull << 30; out->reserved = 1ull << 30; out->free = 60ull << 30; out->used = 19ull << 30;
    return OK;
}
Return nvmlDeviceGetComputeRunningProcesses_v3(Device d, unsigned *count, struct Process *out) {
    ENTER(d->gpu);
    return processes(d, count, out);
}
struct Fabric { unsigned version; uint8_t cluster[16]; Return status; uint32_t clique; unsigned state; uint32_t health; };
Return nvmlDeviceGetGpuFabricInfoV(Device d, struct Fabric *out) { ENTER(d->gpu); out->state = number("fabric", 0); return OK; }

struct Metric { unsigned id; Return code; double value; void *names[3]; };
struct Question { unsigned version, count; Sample *first, *second; struct Metric metrics[]; };
struct Support { unsigned version, supported; };
Return nvmlGpmQueryDeviceSupport(Device d, struct Support *out) { ENTER(d->gpu); out->supported = number("gpm", 1); return OK; }
Return nvmlGpmSampleAlloc(Sample **out) { ENTER(-1); *out = calloc(1, sizeof **out); return OK; }
Return nvmlGpmSampleFree(Sample *sample) { free(sample); return OK; }
Return nvmlGpmSampleGet(Device d, Sample *out) {
    ENTER(d->gpu);
    burn(70);
    *out = (Sample){now(), d->gpu, -1};
    return OK;
}
Return nvmlGpmMigSampleGet(Device d, unsigned instance, Sample *out) {
    ENTER(d->gpu);
    *out = (Sample){now(), d->gpu, (int)instance};
    return OK;
}
Return nvmlGpmMetricsGet(struct Question *q) {
    ENTER(q->second->gpu);
    if (q->version != 1 || q->first->gpu != q->second->gpu || q->second->at - q->first->at < 0.0999) return INVALID_ARGUMENT;
    for (unsigned m = 0; m < q->count; m++) {
        burn(q->metrics[m].id == 1 ? 1500 : 3);
        char key[32];
        snprintf(key, sizeof key, "metric:%u", q->metrics[m].id);
        q->metrics[m].code = find(key) ? OK : NOT_SUPPORTED;
        q->metrics[m].value = number(key, 0);
    }
    return OK;
}
#endif
