// A disk below $SHIM_NAMES_UNDER with its own mind about names; it keeps them as they were written.
// $SHIM_BAD_CHARACTERS (bytes) and $SHIM_NAME_BYTES: names with such a byte, or longer, are refused when they are made,
// with $SHIM_NAME_ERRNO; with $SHIM_NAME_LOOKUPS also where they are only asked for. $SHIM_BLIND: any of "case", "unicode" and "ends" (dots and spaces at the end of a name).
#include "under.h"
#include "folds.h" // made by shims/__init__.py: `case_folds` and `unicode_folds`, sorted

static const char *top(void) { return getenv("SHIM_NAMES_UNDER"); }
static int is_blind(const char *to) { const char *all = getenv("SHIM_BLIND"); return all && strstr(all, to) != NULL; }

static unsigned decoded(const unsigned char **at) {
    const unsigned char *p = *at;
    int more = *p < 0xC2 ? 0 : *p < 0xE0 ? 1 : *p < 0xF0 ? 2 : *p < 0xF5 ? 3 : 0;
    unsigned code = more == 0 ? *p : *p & (0x3F >> more);
    for (int i = 1; i <= more; i++) {
        if ((p[i] & 0xC0) != 0x80) { *at = p + 1; return 0xDC00 + *p; }
        code = code << 6 | (p[i] & 0x3F);
    }
    *at = p + more + 1;
    return more == 0 && *p >= 0x80 ? 0xDC00 + *p : code;
}

static int folded(const Fold *folds, size_t count, const unsigned *of, int length, unsigned *to) {
    int done = 0;
    for (int i = 0; i < length && done < 4000; i++) {
        size_t low = 0, high = count;
        while (low < high) { size_t middle = (low + high) / 2; if (folds[middle].code < of[i]) low = middle + 1; else high = middle; }
        if (low == count || folds[low].code != of[i]) { to[done++] = of[i]; continue; }
        for (int k = 0; k < 4 && folds[low].to[k]; k++) to[done++] = folds[low].to[k];
    }
    return done;
}

// What the disk goes by when it looks for a name: code points.
static int meaning(const char *name, size_t bytes, unsigned *to) {
    unsigned first[1024], second[4096];
    int length = 0;
    const unsigned char *at = (const unsigned char *)name, *end = at + bytes;
    while (at < end && length < 1000) first[length++] = decoded(&at);
    if (is_blind("ends")) while (length > 1 && (first[length - 1] == '.' || first[length - 1] == ' ')) length--;
    if (is_blind("unicode")) length = folded(unicode_folds, sizeof unicode_folds / sizeof *unicode_folds, first, length, second);
    else memcpy(second, first, sizeof(unsigned) * length);
    if (is_blind("case")) return folded(case_folds, sizeof case_folds / sizeof *case_folds, second, length, to);
    memcpy(to, second, sizeof(unsigned) * length);
    return length;
}

// Append to `path` the name in that folder which the disk takes for `name`; `name` itself if there is none.
static void append_name(char *path, const char *name, size_t bytes) {
    size_t length = strlen(path);
    if (length + bytes + 2 > ROOM) return;
    snprintf(path + length, ROOM - length, "/%.*s", (int)bytes, name);
    struct stat status;
    if (bytes == 0 || (bytes == 1 && name[0] == '.') || (bytes == 2 && !strncmp(name, "..", 2))) return;
    if (syscall(SYS_newfstatat, AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW) == 0) return;
    static DIR *(*next)(const char *);
    if (!next) next = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    char folder[ROOM];
    snprintf(folder, ROOM, "%.*s", (int)length, path);
    DIR *entries = next(folder);
    if (!entries) return;
    unsigned wanted[4096], there[4096];
    int count = meaning(name, bytes, wanted);
    struct dirent *entry;
    while ((entry = readdir(entries))) {
        if (meaning(entry->d_name, strlen(entry->d_name), there) != count || memcmp(wanted, there, sizeof(unsigned) * count)) continue;
        snprintf(path + length, ROOM - length, "/%s", entry->d_name);
        break;
    }
    closedir(entries);
}

// The path that the disk takes `name` for.
static const char *found(int folder, const char *name, char *path) {
    char whole[ROOM];
    int before = errno;
    if (!top() || !getenv("SHIM_BLIND") || !absolute(folder, name, whole) || !below(whole, top())) return name;
    snprintf(path, ROOM, "%s", top());
    for (const char *part = below(whole, top()); *part;) {
        if (*part == '/') { part++; continue; }
        size_t bytes = strcspn(part, "/");
        append_name(path, part, bytes);
        part += bytes;
    }
    errno = before;
    return path;
}

// Whether the disk refuses to make this name; errno is set then.
static int is_refused(int folder, const char *name) {
    char whole[ROOM];
    const char *characters = getenv("SHIM_BAD_CHARACTERS"), *most = getenv("SHIM_NAME_BYTES"), *why = getenv("SHIM_NAME_ERRNO");
    if (!top() || (!characters && !most) || !absolute(folder, name, whole)) return 0;
    const char *part = below(whole, top());
    if (!part) return 0;
    for (; *part; part += strcspn(part, "/"), part += *part == '/') {
        size_t bytes = strcspn(part, "/");
        int is_bad = most && bytes > (size_t)atoi(most);
        for (const char *c = characters; c && *c; c++) is_bad |= memchr(part, *c, bytes) != NULL;
        if (is_bad) { errno = why ? atoi(why) : EINVAL; return 1; }
    }
    return 0;
}

#define HERE(p) char at[ROOM]; p = found(AT_FDCWD, p, at)
#define LOOK(d, p) if (getenv("SHIM_NAME_LOOKUPS") && is_refused(d, p)) return -1
#define MAKE(p) if (is_refused(AT_FDCWD, p)) return -1
int open(const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(open); if ((flags & O_CREAT) && is_refused(AT_FDCWD, p)) return -1; HERE(p); return next(p, flags, mode); }
int open64(const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(open64); if ((flags & O_CREAT) && is_refused(AT_FDCWD, p)) return -1; HERE(p); return next(p, flags, mode); }
int openat(int d, const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(openat); if ((flags & O_CREAT) && is_refused(d, p)) return -1; char at[ROOM]; return next(d, found(d, p, at), flags, mode); }
int openat64(int d, const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(openat64); if ((flags & O_CREAT) && is_refused(d, p)) return -1; char at[ROOM]; return next(d, found(d, p, at), flags, mode); }
DIR *opendir(const char *p) { NEXT(opendir); HERE(p); return next(p); }
// The new name is kept as it is written, unless the disk has it already.
int rename(const char *x, const char *y) { NEXT(rename); MAKE(y); char a[ROOM], b[ROOM]; return next(found(AT_FDCWD, x, a), found(AT_FDCWD, y, b)); }
int renameat(int d, const char *x, int e, const char *y) { NEXT(renameat); if (is_refused(e, y)) return -1; char a[ROOM], b[ROOM]; return next(d, found(d, x, a), e, found(e, y, b)); }
int link(const char *x, const char *y) { NEXT(link); MAKE(y); char a[ROOM], b[ROOM]; return next(found(AT_FDCWD, x, a), found(AT_FDCWD, y, b)); }
int symlink(const char *x, const char *y) { NEXT(symlink); MAKE(y); HERE(y); return next(x, y); }
int unlink(const char *p) { NEXT(unlink); HERE(p); return next(p); }
int rmdir(const char *p) { NEXT(rmdir); HERE(p); return next(p); }
int mkdir(const char *p, mode_t mode) { NEXT(mkdir); MAKE(p); HERE(p); return next(p, mode); }
int stat(const char *p, struct stat *s) { NEXT(stat); LOOK(AT_FDCWD, p); HERE(p); return next(p, s); }
int stat64(const char *p, struct stat64 *s) { NEXT(stat64); LOOK(AT_FDCWD, p); HERE(p); return next(p, s); }
int lstat(const char *p, struct stat *s) { NEXT(lstat); LOOK(AT_FDCWD, p); HERE(p); return next(p, s); }
int lstat64(const char *p, struct stat64 *s) { NEXT(lstat64); LOOK(AT_FDCWD, p); HERE(p); return next(p, s); }
int fstatat(int d, const char *p, struct stat *s, int flags) { NEXT(fstatat); LOOK(d, p); char at[ROOM]; return next(d, found(d, p, at), s, flags); }
int fstatat64(int d, const char *p, struct stat64 *s, int flags) { NEXT(fstatat64); LOOK(d, p); char at[ROOM]; return next(d, found(d, p, at), s, flags); }
int access(const char *p, int mode) { NEXT(access); HERE(p); return next(p, mode); }
int chmod(const char *p, mode_t mode) { NEXT(chmod); HERE(p); return next(p, mode); }
ssize_t readlink(const char *p, char *to, size_t n) { NEXT(readlink); HERE(p); return next(p, to, n); }
