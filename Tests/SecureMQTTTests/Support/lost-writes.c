// Power loss without pulling the plug.
//
// Preloaded into a process (LD_PRELOAD), it keeps beside the folder LOST_WRITES_ROOT an image, in the folder
// LOST_WRITES_IMAGE, of what a disk would hold after a power failure by the strictest reading of POSIX: the
// contents of a file as of its last fsync or fdatasync, and the names in a folder as of that folder's last fsync.
// The process itself sees its files as usual. When it has been killed, the same source built as a program
// (-DRESTORE) puts the image in the place of the folder: every write, truncation, creation, rename and removal
// that was not followed by a sync is gone.
//
// At the start of the process the folder as it is counts as durable. SQLite's -shm files are in no image: they
// are memory, mapped, and made anew after a crash. Writes through other memory maps would be missed; SQLite
// makes none unless told to (PRAGMA mmap_size), and we don't tell it.
//
// The real syncs are left out: killing a process doesn't empty the page cache, and the tests run faster.
//
// Environment: LOST_WRITES_ROOT, LOST_WRITES_IMAGE: absolute paths, neither inside the other.

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// Straight to the kernel, so that nothing of ours is caught by our own hooks.
static ssize_t raw_pwrite(int fd, const void *data, size_t size, off_t offset) {
    return syscall(SYS_pwrite64, fd, data, size, offset);
}
static int raw_truncate(int fd, off_t size) { return (int)syscall(SYS_ftruncate, fd, size); }
static int raw_rename(const char *from, const char *to) {
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
static int raw_unlink(const char *path) { return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0); }

static void fail(const char *what, const char *path) {
    fprintf(stderr, "lost-writes: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

static int is_memory(const char *name) {
    size_t length = strlen(name);
    return length >= 4 && strcmp(name + length - 4, "-shm") == 0;
}

// Copies bytes [from, to) between descriptors, at the same place.
static int copy_range(int source, int target, off_t from, off_t to) {
    char buffer[65536];
    while (from < to) {
        size_t wanted = to - from < (off_t)sizeof buffer ? (size_t)(to - from) : sizeof buffer;
        ssize_t got = pread(source, buffer, wanted, from);
        if (got < 0) return -1;
        if (got == 0) break;
        for (ssize_t done = 0; done < got;) {
            ssize_t put = raw_pwrite(target, buffer + done, (size_t)(got - done), from + done);
            if (put <= 0) return -1;
            done += put;
        }
        from += got;
    }
    return 0;
}

#ifndef RESTORE

static char root[PATH_MAX];
static size_t root_length;
static char image[PATH_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

// ---- What we know of an inode -----------------------------------------------------------------------------

#define MAXIMUM_RANGES 512

struct inode {
    ino_t number;
    // Inode numbers are used again: the generation tells a new file from the one removed.
    unsigned generation;
    // Written and not synced. `whole`: too many to remember one by one.
    int whole;
    size_t count;
    struct { off_t from, to; } dirty[MAXIMUM_RANGES];
    struct inode *next;
};

static struct inode *table[1024];

static struct inode *inode_of(ino_t number) {
    struct inode **slot = &table[number % 1024];
    for (struct inode *entry = *slot; entry; entry = entry->next)
        if (entry->number == number) return entry;
    struct inode *entry = calloc(1, sizeof *entry);
    if (!entry) abort();
    entry->number = number;
    entry->next = *slot;
    *slot = entry;
    return entry;
}

static void forget(struct inode *entry) {
    entry->count = 0;
    entry->whole = 0;
}

static void mark(struct inode *entry, off_t from, off_t to) {
    if (entry->whole || from >= to) return;
    if (entry->count && entry->dirty[entry->count - 1].to == from) {
        entry->dirty[entry->count - 1].to = to;
    } else if (entry->count == MAXIMUM_RANGES) {
        entry->whole = 1;
    } else {
        entry->dirty[entry->count].from = from;
        entry->dirty[entry->count].to = to;
        entry->count++;
    }
}

// The inode behind a descriptor if it is a file or, for syncs, a folder of ours; else NULL. With the lock held.
static struct inode *tracked(int fd, struct stat *status) {
    if (!root_length || fstat(fd, status) != 0) return NULL;
    if (!S_ISREG(status->st_mode) && !S_ISDIR(status->st_mode)) return NULL;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)root_length) return NULL;
    path[length] = 0;
    if (strncmp(path, root, root_length) != 0) return NULL;
    if (path[root_length] != 0 && path[root_length] != '/') return NULL;
    if (is_memory(path)) return NULL;
    return inode_of(status->st_ino);
}

static void data_path(char *path, const struct inode *entry) {
    snprintf(path, PATH_MAX, "%s/data/%llu.%u", image, (unsigned long long)entry->number, entry->generation);
}

// ---- Into the image ---------------------------------------------------------------------------------------

static void sync_file(int fd, struct inode *entry, off_t size) {
    char path[PATH_MAX];
    data_path(path, entry);
    int target = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (target < 0) fail("open", path);
    struct stat before;
    if (fstat(target, &before) != 0) fail("stat", path);
    // Read through a descriptor of our own: the given one may be open for writing only.
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int source = open(link, O_RDONLY | O_CLOEXEC);
    if (source < 0) fail("open", link);
    int failed = 0;
    if (entry->whole) {
        failed |= copy_range(source, target, 0, size);
    } else {
        for (size_t i = 0; i < entry->count; i++)
            failed |= copy_range(
                source, target, entry->dirty[i].from, entry->dirty[i].to < size ? entry->dirty[i].to : size);
        // What grew without our seeing it (stdio, posix_fallocate inside libc).
        if (before.st_size < size) failed |= copy_range(source, target, before.st_size, size);
    }
    failed |= raw_truncate(target, size);
    if (failed) fail("copy to", path);
    close(source);
    close(target);
    forget(entry);
}

static void sync_folder(const char *folder, ino_t number) {
    char path[PATH_MAX], temporary[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/folders/%llu", image, (unsigned long long)number);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *out = fopen(temporary, "we");
    DIR *names = opendir(folder);
    if (!out || !names) fail("read", folder);
    for (struct dirent *name; (name = readdir(names));) {
        struct stat status;
        if (!strcmp(name->d_name, ".") || !strcmp(name->d_name, "..") || is_memory(name->d_name)) continue;
        if (fstatat(dirfd(names), name->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
        unsigned generation = inode_of(status.st_ino)->generation;
        if (S_ISDIR(status.st_mode) || S_ISREG(status.st_mode))
            fprintf(out, "%c %llu %u %o %s\n", S_ISDIR(status.st_mode) ? 'd' : 'f',
                (unsigned long long)status.st_ino, generation, status.st_mode & 07777, name->d_name);
    }
    closedir(names);
    if (fclose(out) != 0 || raw_rename(temporary, path) != 0) fail("write", path);
}

// All that is there at the start is durable.
static void take(const char *folder) {
    struct stat status;
    if (stat(folder, &status) != 0) fail("stat", folder);
    sync_folder(folder, status.st_ino);
    DIR *names = opendir(folder);
    if (!names) fail("read", folder);
    for (struct dirent *name; (name = readdir(names));) {
        char path[PATH_MAX];
        if (!strcmp(name->d_name, ".") || !strcmp(name->d_name, "..") || is_memory(name->d_name)) continue;
        snprintf(path, sizeof path, "%s/%s", folder, name->d_name);
        if (lstat(path, &status) != 0) continue;
        if (S_ISDIR(status.st_mode)) take(path);
        if (!S_ISREG(status.st_mode)) continue;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        struct inode *entry = inode_of(status.st_ino);
        entry->whole = 1;
        sync_file(fd, entry, status.st_size);
        close(fd);
    }
    closedir(names);
}

static void empty(const char *folder) {
    DIR *names = opendir(folder);
    if (!names) return;
    for (struct dirent *name; (name = readdir(names));) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", folder, name->d_name);
        if (name->d_name[0] != '.') raw_unlink(path);
    }
    closedir(names);
}

__attribute__((constructor)) static void start(void) {
    const char *wanted = getenv("LOST_WRITES_ROOT"), *kept = getenv("LOST_WRITES_IMAGE");
    if (!wanted || !kept) return;
    if (!realpath(wanted, root)) fail("find", wanted);
    char path[PATH_MAX];
    mkdir(kept, 0700);
    if (!realpath(kept, image)) fail("find", kept);
    snprintf(path, sizeof path, "%s/data", image);
    mkdir(path, 0700);
    empty(path);
    snprintf(path, sizeof path, "%s/folders", image);
    mkdir(path, 0700);
    empty(path);
    take(root);
    struct stat status;
    if (stat(root, &status) != 0) fail("stat", root);
    snprintf(path, sizeof path, "%s/root", image);
    FILE *out = fopen(path, "we");
    if (!out) fail("write", path);
    fprintf(out, "%llu\n", (unsigned long long)status.st_ino);
    if (fclose(out) != 0) fail("write", path);
    root_length = strlen(root);
    // Only this program: what it starts has files of its own.
    unsetenv("LD_PRELOAD");
}

// ---- Hooks: writes ----------------------------------------------------------------------------------------

static void wrote(int fd, off_t from, ssize_t size) {
    if (size <= 0 || !root_length) return;
    int error = errno;
    struct stat status;
    pthread_mutex_lock(&lock);
    struct inode *entry = tracked(fd, &status);
    if (entry) {
        if (from < 0) {
            // At the descriptor's own place, which is now behind what was written.
            off_t now = lseek(fd, 0, SEEK_CUR);
            if (now >= size) mark(entry, now - size, now);
            else entry->whole = 1;
        } else {
            mark(entry, from, from + size);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
}

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t result = syscall(SYS_write, fd, data, size);
    // Sockets and pipes are no concern of ours: tracked() asks fstat first.
    wrote(fd, -1, result);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t result = syscall(SYS_writev, fd, parts, count);
    wrote(fd, -1, result);
    return result;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    ssize_t result = raw_pwrite(fd, data, size, offset);
    wrote(fd, offset, result);
    return result;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return pwrite(fd, data, size, offset); }

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    ssize_t result = syscall(SYS_pwritev, fd, parts, count, offset, 0);
    wrote(fd, offset, result);
    return result;
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return pwritev(fd, parts, count, offset);
}

// A change of the size, or of places that we don't follow: the next sync takes the whole file.
static void changed(int fd) {
    if (!root_length) return;
    int error = errno;
    struct stat status;
    pthread_mutex_lock(&lock);
    struct inode *entry = tracked(fd, &status);
    if (entry) entry->whole = 1;
    pthread_mutex_unlock(&lock);
    errno = error;
}

int ftruncate(int fd, off_t size) {
    int result = raw_truncate(fd, size);
    if (result == 0) changed(fd);
    return result;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int fallocate(int fd, int mode, off_t offset, off_t size) {
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, size);
    if (result == 0) changed(fd);
    return result;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size) { return fallocate(fd, mode, offset, size); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    ssize_t result = syscall(SYS_copy_file_range, in, from, out, to, size, flags);
    if (result > 0) changed(out);
    return result;
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    ssize_t result = syscall(SYS_sendfile, out, in, offset, size);
    if (result > 0) changed(out);
    return result;
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) { return sendfile(out, in, offset, size); }

// ---- Hooks: names -----------------------------------------------------------------------------------------

// The file of that name is about to lose a name: if it is its last, its inode number may come again.
static void losing(int folder, const char *path) {
    struct stat status;
    if (!root_length || fstatat(folder, path, &status, AT_SYMLINK_NOFOLLOW) != 0) return;
    if (!S_ISREG(status.st_mode) || status.st_nlink > 1) return;
    pthread_mutex_lock(&lock);
    struct inode *entry = inode_of(status.st_ino);
    entry->generation++;
    forget(entry);
    pthread_mutex_unlock(&lock);
}

int unlinkat(int folder, const char *path, int flags) {
    if (!(flags & AT_REMOVEDIR)) losing(folder, path);
    return (int)syscall(SYS_unlinkat, folder, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int remove(const char *path) {
    int result = unlink(path);
    return result != 0 && errno == EISDIR ? rmdir(path) : result;
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    struct stat source, target;
    if (flags == 0 && fstatat(from_folder, from, &source, AT_SYMLINK_NOFOLLOW) == 0
        && fstatat(to_folder, to, &target, AT_SYMLINK_NOFOLLOW) == 0 && source.st_ino != target.st_ino)
        losing(to_folder, to);
    return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

// ---- Hooks: syncs -----------------------------------------------------------------------------------------

static int synced(int fd) {
    struct stat status;
    pthread_mutex_lock(&lock);
    struct inode *entry = tracked(fd, &status);
    if (entry && S_ISDIR(status.st_mode)) {
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            sync_folder(path, status.st_ino);
        }
    } else if (entry) {
        sync_file(fd, entry, status.st_size);
    }
    pthread_mutex_unlock(&lock);
    return entry != NULL;
}

int fsync(int fd) { return synced(fd) ? 0 : (int)syscall(SYS_fsync, fd); }

int fdatasync(int fd) { return synced(fd) ? 0 : (int)syscall(SYS_fdatasync, fd); }

#else

// ---- After the crash: the image in place of the folder ----------------------------------------------------

static void restore(const char *image, const char *number, const char *folder) {
    char path[PATH_MAX];
    mkdir(folder, 0700);
    // Away with all files: what was not synced with it, and what was comes back below.
    DIR *names = opendir(folder);
    if (!names) fail("read", folder);
    for (struct dirent *name; (name = readdir(names));) {
        struct stat status;
        snprintf(path, sizeof path, "%s/%s", folder, name->d_name);
        if (lstat(path, &status) == 0 && !S_ISDIR(status.st_mode)) raw_unlink(path);
    }
    closedir(names);

    snprintf(path, sizeof path, "%s/folders/%s", image, number);
    FILE *listing = fopen(path, "r");
    // A folder whose names were never synced is empty.
    if (!listing) return;
    char kind, name[NAME_MAX + 1];
    unsigned long long inode;
    unsigned generation, mode;
    while (fscanf(listing, "%c %llu %u %o %255[^\n]\n", &kind, &inode, &generation, &mode, name) == 5) {
        char target[PATH_MAX], source[PATH_MAX], next[32];
        snprintf(target, sizeof target, "%s/%s", folder, name);
        if (kind == 'd') {
            snprintf(next, sizeof next, "%llu", inode);
            restore(image, next, target);
            chmod(target, mode);
            continue;
        }
        int out = open(target, O_WRONLY | O_CREAT | O_TRUNC, mode);
        if (out < 0) fail("write", target);
        snprintf(source, sizeof source, "%s/data/%llu.%u", image, inode, generation);
        int in = open(source, O_RDONLY);
        struct stat status;
        // A file that was named durably but never synced is there and empty.
        if (in >= 0 && (fstat(in, &status) != 0 || copy_range(in, out, 0, status.st_size) != 0))
            fail("copy", source);
        if (in >= 0) close(in);
        fchmod(out, mode);
        close(out);
    }
    fclose(listing);
}

// restore IMAGE ROOT
int main(int count, char **arguments) {
    char path[PATH_MAX], number[32];
    if (count != 3) {
        fprintf(stderr, "usage: restore IMAGE ROOT\n");
        return 64;
    }
    snprintf(path, sizeof path, "%s/root", arguments[1]);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%31s", number) != 1) fail("read", path);
    fclose(file);
    restore(arguments[1], number, arguments[2]);
    return 0;
}

#endif
