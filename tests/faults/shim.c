/* Lets the n-th call of a kind on files below one folder fail, or end the process there: preloaded (LD_PRELOAD), it
 * meets the writes of Python, HDF5, SQLite, PyTorch and Rust alike. `fault_arm` is given a plan that lies in memory
 * shared with the process that looks on; without one every call goes through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, FSYNC = 4, RENAME = 8, MKDIR = 16, UNLINK = 32, MEMORY = 64 };
enum { COUNT = 0, ONCE = 1, FROM_THERE_ON = 2, KILL = 3 };

struct plan {
    long at;      /* which call, from 1 */
    long counted; /* calls of the kinds below the root so far */
    long struck;  /* how many were made to fail */
    long calls[7][3]; /* by kind and by whose file it is: Dagster's, MLflow's, another */
    int kinds, whose, mode, error, armed; /* `whose` is -1 for all */
    long big; /* bytes from which an allocation is counted */
    char root[1024], path[1024];
};

static struct plan *plan;

void fault_arm(struct plan *shared) { plan = shared; }

static int whose(const char *path) {
    const char *in = path + strlen(plan->root);
    return strncmp(in, "/dagster", 8) == 0 ? 0 : strncmp(in, "/mlflow", 7) == 0 ? 1 : 2;
}

static int struck(int kind, const char *path) {
    struct plan *p = plan;
    int owner = kind == MEMORY ? 2 : whose(path);
    __atomic_add_fetch(&p->calls[__builtin_ctz(kind)][owner], 1, __ATOMIC_SEQ_CST);
    if (!(p->kinds & kind) || (p->whose >= 0 && p->whose != owner)) return 0;
    long n = __atomic_add_fetch(&p->counted, 1, __ATOMIC_SEQ_CST);
    if (p->mode == COUNT || n < p->at || (n > p->at && p->mode != FROM_THERE_ON)) return 0;
    if (__atomic_add_fetch(&p->struck, 1, __ATOMIC_SEQ_CST) == 1) strncpy(p->path, path, sizeof p->path - 1);
    if (p->mode == KILL) return kill(getpid(), p->error); /* 0: the call goes through */
    errno = p->error;
    return 1;
}

static int armed(void) { return plan && plan->armed; }

static int below(const char *path) {
    size_t size = strlen(plan->root);
    return strncmp(path, plan->root, size) == 0 && (path[size] == '/' || !path[size]);
}

static int path_fails(int kind, const char *path) {
    return armed() && path && path[0] == '/' && below(path) && struck(kind, path);
}

static int fd_path(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlink, link, path, 1000);
    path[size < 0 ? 0 : size] = 0;
    return size > 0;
}

static int fd_fails(int kind, int fd) {
    char path[1024];
    int before = errno;
    if (!armed()) return 0;
    if (!fd_path(fd, path) || !below(path)) { errno = before; return 0; }
    errno = before;
    return struck(kind, path);
}

static int at_fails(int kind, int folder, const char *path) {
    char joined[2048];
    if (!armed()) return 0;
    if (path[0] == '/' || folder == AT_FDCWD) return path_fails(kind, path);
    if (!fd_path(folder, joined)) return 0;
    strncat(joined, "/", 2), strncat(joined, path, 900);
    return path_fails(kind, joined);
}

#define NEXT(name) __typeof__(name) *next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, int); va_end(list);                            \
        NEXT(name);                                                                                                    \
        return path_fails(OPEN, path) ? -1 : next(path, flags, mode);                                                  \
    }
OPENS(open)
OPENS(open64)
#define OPENS_AT(name)                                                                                                 \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, int); va_end(list);                            \
        NEXT(name);                                                                                                    \
        return at_fails(OPEN, folder, path) ? -1 : next(folder, path, flags, mode);                                    \
    }
OPENS_AT(openat)
OPENS_AT(openat64)
FILE *fopen(const char *path, const char *mode) { NEXT(fopen); return path_fails(OPEN, path) ? NULL : next(path, mode); }
FILE *fopen64(const char *path, const char *mode) { NEXT(fopen64); return path_fails(OPEN, path) ? NULL : next(path, mode); }

#define FD(kind, type, name, parameters, ...)                                                                          \
    type name parameters { NEXT(name); return fd_fails(kind, fd) ? -1 : next(__VA_ARGS__); }
FD(WRITE, ssize_t, write, (int fd, const void *from, size_t size), fd, from, size)
FD(WRITE, ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), fd, from, size, at)
FD(WRITE, ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), fd, from, size, at)
FD(WRITE, ssize_t, writev, (int fd, const struct iovec *from, int count), fd, from, count)
FD(WRITE, int, ftruncate, (int fd, off_t size), fd, size)
FD(WRITE, int, ftruncate64, (int fd, off64_t size), fd, size)
FD(WRITE, ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), fd, from, at, size)
FD(WRITE, ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), fd, from, at, size)
FD(FSYNC, int, fsync, (int fd), fd)
FD(FSYNC, int, fdatasync, (int fd), fd)

int rename(const char *from, const char *to) { NEXT(rename); return path_fails(RENAME, to) ? -1 : next(from, to); }
int renameat(int a, const char *from, int b, const char *to) { NEXT(renameat); return at_fails(RENAME, b, to) ? -1 : next(a, from, b, to); }
int link(const char *from, const char *to) { NEXT(link); return path_fails(RENAME, to) ? -1 : next(from, to); }
int mkdir(const char *path, mode_t mode) { NEXT(mkdir); return path_fails(MKDIR, path) ? -1 : next(path, mode); }
int unlink(const char *path) { NEXT(unlink); return path_fails(UNLINK, path) ? -1 : next(path); }
int unlinkat(int a, const char *path, int flags) { NEXT(unlinkat); return at_fails(UNLINK, a, path) ? -1 : next(a, path, flags); }
int rmdir(const char *path) { NEXT(rmdir); return path_fails(UNLINK, path) ? -1 : next(path); }

/* glibc's own names: to look up the next `malloc` would allocate. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
static int no_room(size_t size) {
    if (!armed() || !(plan->kinds & MEMORY) || (long)size < plan->big || !struck(MEMORY, "memory")) return 0;
    errno = ENOMEM;
    return 1;
}
void *malloc(size_t size) { return no_room(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return no_room(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return no_room(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t a, size_t size) { return no_room(size) ? NULL : __libc_memalign(a, size); }
void *aligned_alloc(size_t a, size_t size) { return no_room(size) ? NULL : __libc_memalign(a, size); }
int posix_memalign(void **found, size_t a, size_t size) {
    if (no_room(size)) return ENOMEM;
    *found = __libc_memalign(a, size);
    return *found ? 0 : ENOMEM;
}
