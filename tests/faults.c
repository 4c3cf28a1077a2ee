/* Makes one file operation of a process fail, for tests: preloaded, it counts what is done below a folder.

   arm(folder, number, error, how) lets operation `number` (from 1) under the folder fail with `error`. SHORT lets a
   write take half, as a disk does that becomes full; FROM_THEN_ON fails all that come after too. A number of 0 only counts.
   failed() says what it was; recorded() what there was, where nothing was to fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char home[PATH_MAX];
static size_t home_length;
enum { ONCE, SHORT, FROM_THEN_ON };
static long target;
static int kind;
static int fault, armed;
static long seen;
static char last[PATH_MAX + 64];
static char record[1 << 20]; /* of what was counted, a line each */
static size_t recorded_size;

void arm(const char *folder, long number, int error, int how) {
    strncpy(home, folder, sizeof home - 1);
    home_length = strlen(home);
    target = number, fault = error, kind = how;
    __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
    last[0] = record[0] = 0;
    recorded_size = 0;
    armed = 1;
}
const char *failed(void) { return last; }
const char *recorded(void) { return record; }

static int is_below(const char *path) {
    return strncmp(path, home, home_length) == 0 && (path[home_length] == '/' || path[home_length] == 0);
}
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}
static int at(int dirfd, const char *name, char *path) {
    if (name[0] == '/') { strncpy(path, name, PATH_MAX - 1); return 1; }
    if (dirfd == AT_FDCWD) { if (!getcwd(path, PATH_MAX)) return 0; }
    else if (!path_of(dirfd, path)) return 0;
    strncat(path, "/", PATH_MAX - strlen(path) - 1);
    strncat(path, name, PATH_MAX - strlen(path) - 1);
    return 1;
}
static int fails(const char *what, const char *path) {
    if (!armed || !is_below(path)) return 0;
    long number = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (target == 0 && recorded_size + PATH_MAX + 64 < sizeof record)
        recorded_size += snprintf(record + recorded_size, PATH_MAX + 64, "%s %s\n", what, path + home_length);
    if (number != target && !(kind == FROM_THEN_ON && target && number > target)) return 0;
    if (number != target) return 1;
    snprintf(last, sizeof last, "%s %s", what, path + home_length);
    return 1;
}
static int fd_fails(const char *what, int fd) {
    char path[PATH_MAX];
    if (!armed || !path_of(fd, path)) return 0;
    return fails(what, path);
}
static int at_fails(const char *what, int dirfd, const char *name) {
    char path[PATH_MAX];
    if (!armed || !at(dirfd, name, path)) return 0;
    return fails(what, path);
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)
#define FAIL do { errno = fault; return -1; } while (0)

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (fd_fails("write", fd)) {
        if (kind == SHORT && size > 1) return real(fd, bytes, size / 2);
        FAIL;
    }
    return real(fd, bytes, size);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    if (fd_fails("pwrite", fd)) {
        if (kind == SHORT && size > 1) return real(fd, bytes, size / 2, offset);
        FAIL;
    }
    return real(fd, bytes, size, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) { return pwrite(fd, bytes, size, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (fd_fails("writev", fd)) FAIL;
    return real(fd, parts, count);
}
int fsync(int fd) { REAL(int, fsync, int); if (fd_fails("fsync", fd)) FAIL; return real(fd); }
int fdatasync(int fd) { REAL(int, fdatasync, int); if (fd_fails("fdatasync", fd)) FAIL; return real(fd); }
int ftruncate(int fd, off_t size) { REAL(int, ftruncate, int, off_t); if (fd_fails("ftruncate", fd)) FAIL; return real(fd, size); }
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
static mode_t mode_of(int flags, va_list rest) { return flags & O_CREAT ? va_arg(rest, mode_t) : 0; }
int openat(int dirfd, const char *name, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    va_list rest; va_start(rest, flags); mode_t mode = mode_of(flags, rest); va_end(rest);
    if ((flags & WRITES) && at_fails("open", dirfd, name)) FAIL;
    return real(dirfd, name, flags, mode);
}
int openat64(int dirfd, const char *name, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = mode_of(flags, rest); va_end(rest);
    return openat(dirfd, name, flags, mode);
}
int open(const char *name, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = mode_of(flags, rest); va_end(rest);
    return openat(AT_FDCWD, name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = mode_of(flags, rest); va_end(rest);
    return openat(AT_FDCWD, name, flags, mode);
}
static int writes(const char *how) { return strpbrk(how, "wa+") != NULL; }
FILE *fopen(const char *name, const char *how) {
    REAL(FILE *, fopen, const char *, const char *);
    if (writes(how) && at_fails("fopen", AT_FDCWD, name)) { errno = fault; return NULL; }
    return real(name, how);
}
FILE *fopen64(const char *name, const char *how) { return fopen(name, how); }

int mkdirat(int dirfd, const char *name, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    if (at_fails("mkdir", dirfd, name)) FAIL;
    return real(dirfd, name, mode);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
int unlinkat(int dirfd, const char *name, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    if (at_fails("unlink", dirfd, name)) FAIL;
    return real(dirfd, name, flags);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int renameat(int from, const char *old, int to, const char *new) {
    REAL(int, renameat, int, const char *, int, const char *);
    if (at_fails("rename", to, new)) FAIL;
    return real(from, old, to, new);
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }
