/* A client of a shared disk: a FUSE file system that passes each call on to the folder SOURCE. Each mount has its own
 * cache of pages, as each machine with a network file system has. With SHARED_DISK_LOCKS=0, locks stay in one mount.
 *
 * shared_disk MOUNT_POINT -f -s, with SHARED_DISK=SOURCE
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESULT(call) return (call) == -1 ? -errno : 0

static int source;

/* A path of the file system, relative to the folder. */
static const char *below(const char *path) { return path[1] ? path + 1 : "."; }

static int get_attributes(const char *path, struct stat *found, struct fuse_file_info *info) {
    if (info) RESULT(fstat(info->fh, found));
    RESULT(fstatat(source, below(path), found, AT_SYMLINK_NOFOLLOW));
}

static int read_folder(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
                       enum fuse_readdir_flags flags) {
    int handle = openat(source, below(path), O_RDONLY | O_DIRECTORY);
    DIR *folder = handle == -1 ? NULL : fdopendir(handle);
    if (!folder) return -errno;
    for (struct dirent *entry; (entry = readdir(folder));) fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int make_folder(const char *path, mode_t mode) { RESULT(mkdirat(source, below(path), mode)); }
static int remove_file(const char *path) { RESULT(unlinkat(source, below(path), 0)); }
static int remove_folder(const char *path) { RESULT(unlinkat(source, below(path), AT_REMOVEDIR)); }
static int change_mode(const char *path, mode_t mode, struct fuse_file_info *info) {
    RESULT(fchmodat(source, below(path), mode, 0));
}
static int rename_file(const char *path, const char *to, unsigned flags) {
    if (flags) return -EINVAL;
    RESULT(renameat(source, below(path), source, below(to)));
}
static int set_times(const char *path, const struct timespec times[2], struct fuse_file_info *info) {
    RESULT(utimensat(source, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int open_file(const char *path, struct fuse_file_info *info) {
    int flags = info->flags & ~O_APPEND;
    if ((flags & O_ACCMODE) == O_WRONLY) flags = (flags & ~O_ACCMODE) | O_RDWR; /* the kernel reads whole pages */
    int handle = openat(source, below(path), flags);
    if (handle == -1) return -errno;
    info->fh = handle;
    return 0;
}
static int create_file(const char *path, mode_t mode, struct fuse_file_info *info) {
    int handle = openat(source, below(path), (info->flags & ~(O_APPEND | O_ACCMODE)) | O_RDWR | O_CREAT, mode);
    if (handle == -1) return -errno;
    info->fh = handle;
    return 0;
}
static int truncate_file(const char *path, off_t size, struct fuse_file_info *info) {
    struct fuse_file_info opened = {.flags = O_RDWR};
    if (info) RESULT(ftruncate(info->fh, size));
    int failure = open_file(path, &opened);
    if (failure) return failure;
    failure = ftruncate(opened.fh, size) == -1 ? -errno : 0;
    close(opened.fh);
    return failure;
}
static int read_file(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *info) {
    ssize_t count = pread(info->fh, buffer, size, offset);
    return count == -1 ? -errno : count;
}
static int write_file(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *info) {
    ssize_t count = pwrite(info->fh, buffer, size, offset);
    return count == -1 ? -errno : count;
}
static int close_file(const char *path, struct fuse_file_info *info) { RESULT(close(info->fh)); }

/* POSIX locks belong to a process. Here they are locks of an open file, one for each file and process, which several
 * mounts of one folder see. Closing any handle of the file releases them. */
struct owned {
    uint64_t owner;
    ino_t file;
    int handle;
    struct owned *next;
} *locks;

static struct owned **find_lock(struct fuse_file_info *info) {
    struct stat found = {0};
    struct owned **each = &locks;
    fstat(info->fh, &found);
    while (*each && ((*each)->owner != info->lock_owner || (*each)->file != found.st_ino)) each = &(*each)->next;
    return each;
}
static int lock_range(const char *path, struct fuse_file_info *info, int command, struct flock *range) {
    struct owned **place = find_lock(info);
    if (!*place) {
        char name[64];
        struct stat found = {0};
        snprintf(name, sizeof name, "/proc/self/fd/%d", (int)info->fh);
        fstat(info->fh, &found);
        int handle = open(name, O_RDWR);
        if (handle == -1 && (handle = open(name, O_RDONLY)) == -1) return -errno;
        *place = malloc(sizeof **place);
        **place = (struct owned){info->lock_owner, found.st_ino, handle, NULL};
    }
    range->l_pid = 0;
    RESULT(fcntl((*place)->handle, command == F_GETLK ? F_OFD_GETLK : F_OFD_SETLK, range));
}
static int flush_file(const char *path, struct fuse_file_info *info) {
    struct owned **place = find_lock(info), *gone = *place;
    if (gone) {
        *place = gone->next;
        close(gone->handle);
        free(gone);
    }
    return 0;
}
static int lock_file(const char *path, struct fuse_file_info *info, int operation) {
    RESULT(flock(info->fh, operation | LOCK_NB));
}

static void *start(struct fuse_conn_info *connection, struct fuse_config *settings) {
    settings->use_ino = settings->hard_remove = 1;
    settings->attr_timeout = settings->entry_timeout = settings->negative_timeout = 0;
    connection->want &= ~FUSE_CAP_WRITEBACK_CACHE;
    return NULL;
}

static struct fuse_operations operations = {
    .init = start, .getattr = get_attributes, .readdir = read_folder, .mkdir = make_folder, .unlink = remove_file,
    .rmdir = remove_folder, .rename = rename_file, .chmod = change_mode, .truncate = truncate_file,
    .utimens = set_times, .create = create_file, .open = open_file, .read = read_file, .write = write_file,
    .release = close_file, .flush = flush_file, .lock = lock_range, .flock = lock_file,
};

int main(int count, char **arguments) {
    const char *has_locks = getenv("SHARED_DISK_LOCKS");
    if (has_locks && *has_locks == '0') {
        operations.lock = NULL;
        operations.flock = NULL;
    }
    source = open(getenv("SHARED_DISK"), O_RDONLY | O_DIRECTORY);
    umask(0);
    return fuse_main(count, arguments, &operations, NULL);
}
