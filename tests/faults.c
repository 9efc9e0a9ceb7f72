/* A disk and a clock that fail on demand, preloaded into the program under test.
 *
 * WELLFED_FAULTS names a file of 16 bytes that the test changes while the program runs: an int32 errno that
 * every change below WELLFED_FAULTS_UNDER fails with (0: none), and at byte 8 a double, seconds added to the
 * wall clock. Reads and the monotonic clock are never touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct faults {
    volatile int32_t error;
    int32_t unused;
    volatile double seconds;
};

static struct faults none;
static struct faults *faults = &none;
static const char *under = "";

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WELLFED_FAULTS");
    const char *folder = getenv("WELLFED_FAULTS_UNDER");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, sizeof(struct faults), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        faults = found;
    under = folder ? folder : "";
}

static int concerns(const char *path)
{
    return faults->error && *under && strncmp(path, under, strlen(under)) == 0;
}

static int refuses(int file)
{
    char link[64], path[PATH_MAX];
    if (!faults->error)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return concerns(path);
}

static int fail(void)
{
    errno = faults->error;
    return -1;
}

ssize_t write(int file, const void *bytes, size_t count)
{
    return refuses(file) ? fail() : REAL(write)(file, bytes, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at)
{
    return refuses(file) ? fail() : REAL(pwrite)(file, bytes, count, at);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    return refuses(file) ? fail() : REAL(writev)(file, parts, count);
}

int fsync(int file)
{
    return refuses(file) ? fail() : REAL(fsync)(file);
}

int rename(const char *from, const char *to)
{
    return concerns(to) ? fail() : REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode)
{
    return concerns(path) ? fail() : REAL(mkdir)(path, mode);
}

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...)                         \
    {                                                                  \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                  \
        if (flags & (O_WRONLY | O_RDWR | O_CREAT) && concerns(path))   \
            return fail();                                             \
        return REAL(name)(path, flags, mode);                          \
    }
OPEN(open)
OPEN(open64)

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status = REAL(clock_gettime)(clock, now);
    if (status == 0 && clock == CLOCK_REALTIME && faults->seconds != 0) {
        double moved = (double)now->tv_sec + faults->seconds;
        now->tv_sec = (time_t)moved;
    }
    return status;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
