// Refuses, delays or only pretends calls below a folder, as $SHIM_CALLS says (see shims/__init__.py).
// A line of it: call, errno (0: say it is done and do nothing; negative: microseconds to wait first), how many of these
// calls go through before, how many are refused then, the folder, and a part of the path that must be there.
#include "under.h"
#include <sched.h>
#include <sys/sendfile.h>

enum { ALLOWED = 0, REFUSED = 1, PRETENDED = 2 };

typedef struct { char call[32]; int answer; long after, times; char top[ROOM], part[256]; long seen; } Rule;

static Rule *rules;
static int num_rules = -1;

static void load(void) {
    static int lock;
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) usleep(100);
    if (num_rules < 0) {
        const char *line = getenv("SHIM_CALLS");
        int found = 0;
        rules = calloc(64, sizeof(Rule));
        while (line && *line && found < 64) {
            Rule *rule = &rules[found];
            if (sscanf(line, "%31[^\t]\t%d\t%ld\t%ld\t%8191[^\t\n]\t%255[^\t\n]", rule->call, &rule->answer, &rule->after,
                       &rule->times, rule->top, rule->part) == 6) found++;
            line = strchr(line, '\n');
            if (line) line++;
        }
        num_rules = found;
    }
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

// What is to happen to `call` of `path` (NULL: a call without one). Sets errno where it is refused.
static int judge(const char *call, const char *path) {
    if (num_rules < 0) { int before = errno; load(); errno = before; }
    for (int i = 0; i < num_rules; i++) {
        Rule *rule = &rules[i];
        if (strcmp(rule->call, call)) continue;
        if (path && (!below(path, rule->top) || !strstr(path, rule->part))) continue;
        long seen = __atomic_fetch_add(&rule->seen, 1, __ATOMIC_RELAXED);
        if (seen < rule->after || (rule->times >= 0 && seen >= rule->after + rule->times)) continue;
        if (rule->answer < 0) { usleep(-rule->answer); continue; }
        if (rule->answer == 0) return PRETENDED;
        errno = rule->answer;
        return REFUSED;
    }
    return ALLOWED;
}

static int judge_at(const char *call, int folder, const char *name) {
    char path[ROOM];
    return absolute(folder, name, path) ? judge(call, path) : ALLOWED;
}

static int judge_open_file(const char *call, int descriptor) {
    char path[ROOM];
    int before = errno;
    if (num_rules == 0 || !path_of(descriptor, path)) { errno = before; return ALLOWED; }
    errno = before;
    return judge(call, path);
}

static int is_folder(int folder, const char *name) {
    struct stat status;
    int before = errno, found = syscall(SYS_newfstatat, folder, name, &status, 0) == 0 && S_ISDIR(status.st_mode);
    errno = before;
    return found;
}

#define ANSWER(verdict) do { int v = (verdict); if (v == REFUSED) return -1; if (v == PRETENDED) return 0; } while (0)

static int judge_open(int folder, const char *name, int flags) {
    if (num_rules == 0) return ALLOWED;
    if (judge_at("open", folder, name)) return REFUSED;
    if ((flags & O_CREAT) && judge_at("create", folder, name)) return REFUSED;
    if ((flags & O_NOFOLLOW) && judge_at("open_nofollow", folder, name)) return REFUSED;
    if ((flags & O_NONBLOCK) && judge_at("open_nonblock", folder, name)) return REFUSED;
    if ((flags & __O_TMPFILE) == __O_TMPFILE && judge_at("open_tmpfile", folder, name)) return REFUSED;
    if ((flags & (O_WRONLY | O_RDWR)) && judge_at("open_writing", folder, name)) return REFUSED;
    if (!(flags & (O_CREAT | __O_TMPFILE)) && is_folder(folder, name) && judge_at("open_folder", folder, name)) return REFUSED;
    return ALLOWED;
}
int open(const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(open); ANSWER(judge_open(AT_FDCWD, p, flags)); return next(p, flags, mode); }
int open64(const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(open64); ANSWER(judge_open(AT_FDCWD, p, flags)); return next(p, flags, mode); }
int openat(int d, const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(openat); ANSWER(judge_open(d, p, flags)); return next(d, p, flags, mode); }
int openat64(int d, const char *p, int flags, ...) { MODE_OF(flags, mode) NEXT(openat64); ANSWER(judge_open(d, p, flags)); return next(d, p, flags, mode); }
DIR *opendir(const char *p) { NEXT(opendir); if (judge_at("list", AT_FDCWD, p)) return NULL; return next(p); }

static int judge_sync(int f) {
    struct stat status;
    if (syscall(SYS_fstat, f, &status)) return ALLOWED;
    return judge_open_file(S_ISDIR(status.st_mode) ? "fsync_folder" : "fsync_file", f);
}
int fsync(int f) { NEXT(fsync); ANSWER(judge_sync(f)); return next(f); }
int fdatasync(int f) { NEXT(fdatasync); ANSWER(judge_sync(f)); return next(f); }
int syncfs(int f) { NEXT(syncfs); ANSWER(judge_open_file("syncfs", f)); return next(f); }
int flock(int f, int operation) { NEXT(flock); ANSWER(judge_open_file("flock", f)); return next(f, operation); }
static int judge_fcntl(int f, int command) {
    if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW) return judge_open_file("fcntl_lock", f);
    return ALLOWED;
}
int fcntl(int f, int command, ...) {
    va_list rest; va_start(rest, command); void *value = va_arg(rest, void *); va_end(rest);
    NEXT(fcntl); ANSWER(judge_fcntl(f, command)); return next(f, command, value);
}
int fcntl64(int f, int command, ...) {
    va_list rest; va_start(rest, command); void *value = va_arg(rest, void *); va_end(rest);
    NEXT(fcntl64); ANSWER(judge_fcntl(f, command)); return next(f, command, value);
}

void *mmap(void *a, size_t n, int p, int flags, int f, off_t o) {
    NEXT(mmap);
    if (f >= 0 && (judge_open_file("mmap", f) || ((flags & MAP_SHARED) && judge_open_file("mmap_shared", f)))) return MAP_FAILED;
    return next(a, n, p, flags, f, o);
}
void *mmap64(void *a, size_t n, int p, int flags, int f, off64_t o) {
    NEXT(mmap64);
    if (f >= 0 && (judge_open_file("mmap", f) || ((flags & MAP_SHARED) && judge_open_file("mmap_shared", f)))) return MAP_FAILED;
    return next(a, n, p, flags, f, o);
}

int memfd_create(const char *name, unsigned flags) { NEXT(memfd_create); ANSWER(judge("memfd_create", NULL)); return next(name, flags); }
int sched_getaffinity(pid_t p, size_t n, cpu_set_t *set) { NEXT(sched_getaffinity); ANSWER(judge("sched_getaffinity", NULL)); return next(p, n, set); }

static int judge_rename(int a, const char *from, int b, const char *to) {
    struct stat status;
    char old[ROOM], new[ROOM];
    if (judge_at("rename", b, to)) return REFUSED;
    if (absolute(a, from, old) && absolute(b, to, new)) {
        size_t length = strrchr(new, '/') - new;
        if ((length != (size_t)(strrchr(old, '/') - old) || strncmp(old, new, length)) && judge("rename_across", new)) return REFUSED;
    }
    if (syscall(SYS_newfstatat, b, to, &status, AT_SYMLINK_NOFOLLOW)) return ALLOWED;
    return judge_at("rename_over", b, to) ? REFUSED : ALLOWED;
}
int rename(const char *x, const char *y) { NEXT(rename); ANSWER(judge_rename(AT_FDCWD, x, AT_FDCWD, y)); return next(x, y); }
int renameat(int a, const char *x, int b, const char *y) { NEXT(renameat); ANSWER(judge_rename(a, x, b, y)); return next(a, x, b, y); }
int unlink(const char *p) { NEXT(unlink); ANSWER(judge_at("unlink", AT_FDCWD, p)); return next(p); }
int unlinkat(int d, const char *p, int flags) { NEXT(unlinkat); ANSWER(judge_at("unlink", d, p)); return next(d, p, flags); }
int rmdir(const char *p) { NEXT(rmdir); ANSWER(judge_at("rmdir", AT_FDCWD, p)); return next(p); }
int mkdir(const char *p, mode_t mode) { NEXT(mkdir); ANSWER(judge_at("mkdir", AT_FDCWD, p)); return next(p, mode); }
int mkdirat(int d, const char *p, mode_t mode) { NEXT(mkdirat); ANSWER(judge_at("mkdir", d, p)); return next(d, p, mode); }
int link(const char *x, const char *y) { NEXT(link); ANSWER(judge_at("link", AT_FDCWD, y)); return next(x, y); }
int linkat(int a, const char *x, int b, const char *y, int flags) { NEXT(linkat); ANSWER(judge_at("link", b, y)); return next(a, x, b, y, flags); }
int symlink(const char *x, const char *y) { NEXT(symlink); ANSWER(judge_at("symlink", AT_FDCWD, y)); return next(x, y); }
ssize_t readlink(const char *p, char *to, size_t n) { NEXT(readlink); if (judge_at("readlink", AT_FDCWD, p)) return -1; return next(p, to, n); }
int access(const char *p, int mode) { NEXT(access); ANSWER(judge_at("access", AT_FDCWD, p)); return next(p, mode); }

int chmod(const char *p, mode_t mode) { NEXT(chmod); ANSWER(judge_at("chmod", AT_FDCWD, p)); return next(p, mode); }
int fchmod(int f, mode_t mode) { NEXT(fchmod); ANSWER(judge_open_file("chmod", f)); return next(f, mode); }
int fchmodat(int d, const char *p, mode_t mode, int flags) { NEXT(fchmodat); ANSWER(judge_at("chmod", d, p)); return next(d, p, mode, flags); }
int utimensat(int d, const char *p, const struct timespec t[2], int flags) { NEXT(utimensat); ANSWER(judge_at("utime", d, p)); return next(d, p, t, flags); }
int futimens(int f, const struct timespec t[2]) { NEXT(futimens); ANSWER(judge_open_file("utime", f)); return next(f, t); }

ssize_t read(int f, void *to, size_t n) { NEXT(read); if (judge_open_file("read", f)) return -1; return next(f, to, n); }
ssize_t pread(int f, void *to, size_t n, off_t o) { NEXT(pread); if (judge_open_file("pread", f)) return -1; return next(f, to, n, o); }
ssize_t pread64(int f, void *to, size_t n, off64_t o) { NEXT(pread64); if (judge_open_file("pread", f)) return -1; return next(f, to, n, o); }
ssize_t write(int f, const void *of, size_t n) { NEXT(write); if (judge_open_file("write", f)) return -1; return next(f, of, n); }
ssize_t pwrite(int f, const void *of, size_t n, off_t o) { NEXT(pwrite); if (judge_open_file("pwrite", f)) return -1; return next(f, of, n, o); }
ssize_t pwrite64(int f, const void *of, size_t n, off64_t o) { NEXT(pwrite64); if (judge_open_file("pwrite", f)) return -1; return next(f, of, n, o); }
int ftruncate(int f, off_t n) { NEXT(ftruncate); ANSWER(judge_open_file("truncate", f)); return next(f, n); }
int ftruncate64(int f, off64_t n) { NEXT(ftruncate64); ANSWER(judge_open_file("truncate", f)); return next(f, n); }
int posix_fallocate64(int f, off64_t o, off64_t n) { NEXT(posix_fallocate64); if (judge_open_file("fallocate", f)) return errno; return next(f, o, n); }
ssize_t copy_file_range(int a, off64_t *x, int b, off64_t *y, size_t n, unsigned flags) { NEXT(copy_file_range); if (judge_open_file("copy_file_range", b)) return -1; return next(a, x, b, y, n, flags); }
ssize_t sendfile64(int to, int of, off64_t *o, size_t n) { NEXT(sendfile64); if (judge_open_file("sendfile", to)) return -1; return next(to, of, o, n); }

// $SHIM_STATVFS: folder, then blocks, free, available and bytes in a block, tab between; -1 leaves a value as it is.
static void play_space(const char *path, struct statvfs *s) {
    char top[ROOM];
    long long blocks, left, available, size;
    const char *given = getenv("SHIM_STATVFS");
    if (!given || sscanf(given, "%8191[^\t]\t%lld\t%lld\t%lld\t%lld", top, &blocks, &left, &available, &size) != 5) return;
    if (!below(path, top)) return;
    if (blocks != -1) s->f_blocks = blocks;
    if (left != -1) s->f_bfree = left;
    if (available != -1) s->f_bavail = available;
    if (size != -1) s->f_frsize = s->f_bsize = size;
}
#define SPACE(call, s) \
    char path[ROOM]; \
    if (!absolute(AT_FDCWD, p, path)) return call; \
    ANSWER(judge("statvfs", path)); \
    int result = call; \
    if (!result) play_space(path, (struct statvfs *)s); \
    return result
#define SPACE_OF(call, s) \
    char path[ROOM]; \
    if (!path_of(f, path)) return call; \
    ANSWER(judge("statvfs", path)); \
    int result = call; \
    if (!result) play_space(path, (struct statvfs *)s); \
    return result
int statvfs(const char *p, struct statvfs *s) { NEXT(statvfs); SPACE(next(p, s), s); }
int statvfs64(const char *p, struct statvfs64 *s) { NEXT(statvfs64); SPACE(next(p, s), s); }
int fstatvfs(int f, struct statvfs *s) { NEXT(fstatvfs); SPACE_OF(next(f, s), s); }
int fstatvfs64(int f, struct statvfs64 *s) { NEXT(fstatvfs64); SPACE_OF(next(f, s), s); }

// $SHIM_INODE: folder, tab, the one inode number of all folders there. $SHIM_CTIME: folder, tab, seconds since 1970 for
// everything there (a disk that keeps no time of change).
static void play_status(const char *path, struct stat *s) {
    char top[ROOM];
    long long value;
    const char *given = getenv("SHIM_INODE");
    if (given && S_ISDIR(s->st_mode) && sscanf(given, "%8191[^\t]\t%lld", top, &value) == 2 && below(path, top)) s->st_ino = value;
    given = getenv("SHIM_CTIME");
    if (given && sscanf(given, "%8191[^\t]\t%lld", top, &value) == 2 && below(path, top)) s->st_ctim = (struct timespec){value, 0};
}
#define STATUS(at, call, s) \
    char path[ROOM]; \
    if (!absolute(at, p, path)) return call; \
    ANSWER(judge("stat", path)); \
    int result = call; \
    if (!result) play_status(path, (struct stat *)s); \
    return result
#define STATUS_OF(call, s) \
    char path[ROOM]; \
    int result = call, before = errno; \
    if (!result && path_of(f, path)) play_status(path, (struct stat *)s); \
    errno = before; \
    return result
int stat(const char *p, struct stat *s) { NEXT(stat); STATUS(AT_FDCWD, next(p, s), s); }
int stat64(const char *p, struct stat64 *s) { NEXT(stat64); STATUS(AT_FDCWD, next(p, s), s); }
int lstat(const char *p, struct stat *s) { NEXT(lstat); STATUS(AT_FDCWD, next(p, s), s); }
int lstat64(const char *p, struct stat64 *s) { NEXT(lstat64); STATUS(AT_FDCWD, next(p, s), s); }
int fstatat(int d, const char *p, struct stat *s, int flags) { NEXT(fstatat); STATUS(d, next(d, p, s, flags), s); }
int fstatat64(int d, const char *p, struct stat64 *s, int flags) { NEXT(fstatat64); STATUS(d, next(d, p, s, flags), s); }
int fstat(int f, struct stat *s) { NEXT(fstat); STATUS_OF(next(f, s), s); }
int fstat64(int f, struct stat64 *s) { NEXT(fstat64); STATUS_OF(next(f, s), s); }
