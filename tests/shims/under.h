// Which path a call is about, and whether the disk that is played lies there.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOM 8192 // bytes of a path, with its end
#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define MODE_OF(flags, mode) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

// The path of an open file, without going through a function that is played here.
static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, ROOM - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

// `name`, as it stands, from the root on.
static int absolute(int folder, const char *name, char *path) {
    if (!name) return 0;
    if (name[0] == '/') return snprintf(path, ROOM, "%s", name) < ROOM;
    char base[ROOM];
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, base, ROOM) < 0) return 0;
    } else if (!path_of(folder, base)) return 0;
    return snprintf(path, ROOM, "%.4000s/%.4000s", base, name) < ROOM;
}

// What of `path` lies below `top`; NULL if it lies elsewhere.
static const char *below(const char *path, const char *top) {
    size_t length = strlen(top);
    if (strncmp(path, top, length) || (path[length] && path[length] != '/' && top[length - 1] != '/')) return NULL;
    return path + length;
}
