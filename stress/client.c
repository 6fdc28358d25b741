/* One node's client of a network file system: `client BACKING MOUNTPOINT [options of FUSE]`, which shows the folder BACKING at MOUNTPOINT.

Each mount has its own page cache and its own mapped memory, as the client of a node has. Locks are those of BACKING, so that they hold on all
mounts. With the variable LOCKS=local they hold on one mount only, as with Lustre's `localflock`. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int backing; /* the open folder */

static const char *below(const char *path) { return path[1] ? path + 1 : "."; }
static int answer(int result) { return result < 0 ? -errno : result; }

static int get_attributes(const char *path, struct stat *found, struct fuse_file_info *file)
{
    return answer(file ? fstat(file->fh, found) : fstatat(backing, below(path), found, AT_SYMLINK_NOFOLLOW));
}

static int read_link(const char *path, char *text, size_t size)
{
    ssize_t length = readlinkat(backing, below(path), text, size - 1);
    if (length < 0)
        return -errno;
    text[length] = 0;
    return 0;
}

static int list(const char *path, void *into, fuse_fill_dir_t add, off_t offset, struct fuse_file_info *file, enum fuse_readdir_flags flags)
{
    int folder = openat(backing, below(path), O_RDONLY | O_DIRECTORY);
    DIR *entries = folder < 0 ? NULL : fdopendir(folder);
    if (entries == NULL)
        return -errno;
    for (struct dirent *entry; (entry = readdir(entries));)
        add(into, entry->d_name, NULL, 0, 0);
    closedir(entries);
    return 0;
}

/* A new file belongs to the user of the call. */
static int owned(const char *path, int result)
{
    int error = errno;
    struct fuse_context *caller = fuse_get_context();
    if (result >= 0)
        fchownat(backing, below(path), caller->uid, caller->gid, AT_SYMLINK_NOFOLLOW);
    errno = error;
    return answer(result);
}

static int make_folder(const char *path, mode_t mode) { return owned(path, mkdirat(backing, below(path), mode)); }
static int make_symlink(const char *target, const char *path) { return owned(path, symlinkat(target, backing, below(path))); }
static int remove_file(const char *path) { return answer(unlinkat(backing, below(path), 0)); }
static int remove_folder(const char *path) { return answer(unlinkat(backing, below(path), AT_REMOVEDIR)); }
static int add_link(const char *path, const char *to) { return answer(linkat(backing, below(path), backing, below(to), 0)); }
static int rename_to(const char *path, const char *to, unsigned flags) { return answer(renameat2(backing, below(path), backing, below(to), flags)); }
static int set_mode(const char *path, mode_t mode, struct fuse_file_info *file) { return answer(fchmodat(backing, below(path), mode, 0)); }

static int set_owner(const char *path, uid_t user, gid_t group, struct fuse_file_info *file)
{
    return answer(fchownat(backing, below(path), user, group, AT_SYMLINK_NOFOLLOW));
}

static int set_times(const char *path, const struct timespec times[2], struct fuse_file_info *file)
{
    return answer(utimensat(backing, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int opened(int descriptor, struct fuse_file_info *file)
{
    if (descriptor < 0)
        return -errno;
    file->fh = descriptor;
    return 0;
}

static int open_file(const char *path, struct fuse_file_info *file)
{
    int flags = file->flags & ~O_APPEND; /* the kernel gives the offset of each write */
    if ((flags & O_ACCMODE) == O_WRONLY) /* and reads the rest of a page before it writes a part of it */
        flags = (flags & ~O_ACCMODE) | O_RDWR;
    int descriptor = openat(backing, below(path), flags);
    return opened(descriptor < 0 ? openat(backing, below(path), file->flags) : descriptor, file);
}

static int create_file(const char *path, mode_t mode, struct fuse_file_info *file)
{
    int flags = (file->flags & ~(O_APPEND | O_ACCMODE)) | O_RDWR | O_CREAT, descriptor = openat(backing, below(path), flags, mode);
    owned(path, descriptor);
    return opened(descriptor, file);
}

static int read_bytes(const char *path, char *into, size_t size, off_t at, struct fuse_file_info *file) { return answer(pread(file->fh, into, size, at)); }
static int write_bytes(const char *path, const char *from, size_t size, off_t at, struct fuse_file_info *file) { return answer(pwrite(file->fh, from, size, at)); }

static int set_size(const char *path, off_t size, struct fuse_file_info *file)
{
    int descriptor = file ? (int)file->fh : openat(backing, below(path), O_WRONLY);
    int result = answer(descriptor < 0 ? -1 : ftruncate(descriptor, size));
    if (!file && descriptor >= 0)
        close(descriptor);
    return result;
}

static int synchronize(const char *path, int only_data, struct fuse_file_info *file) { return answer(fsync(file->fh)); }

/* POSIX locks belong to a process and a file, those of an open file description to one that this client opens for the two. */
static struct held { uint64_t process; ino_t file; int descriptor; struct held *next; } *all_held;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static struct held **find(uint64_t process, int descriptor, ino_t *number)
{
    struct stat found;
    struct held **each = &all_held;
    fstat(descriptor, &found);
    *number = found.st_ino;
    while (*each && !((*each)->process == process && (*each)->file == found.st_ino))
        each = &(*each)->next;
    return each;
}

static int lock_range(const char *path, struct fuse_file_info *file, int command, struct flock *range)
{
    ino_t number;
    pthread_mutex_lock(&guard);
    struct held **place = find(file->lock_owner, file->fh, &number);
    if (!*place) {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", (int)file->fh);
        int descriptor = open(name, O_RDWR);
        struct held *added = malloc(sizeof *added);
        *added = (struct held){file->lock_owner, number, descriptor < 0 ? open(name, O_RDONLY) : descriptor, NULL};
        *place = added;
    }
    int descriptor = (*place)->descriptor;
    pthread_mutex_unlock(&guard);
    range->l_pid = 0;
    return answer(fcntl(descriptor, command == F_GETLK ? F_OFD_GETLK : command == F_SETLK ? F_OFD_SETLK : F_OFD_SETLKW, range));
}

static int closed_once(const char *path, struct fuse_file_info *file)
{
    ino_t number;
    pthread_mutex_lock(&guard);
    struct held **place = find(file->lock_owner, file->fh, &number), *gone = *place;
    if (gone) {
        *place = gone->next;
        close(gone->descriptor);
        free(gone);
    }
    pthread_mutex_unlock(&guard);
    return 0;
}

static int lock_whole(const char *path, struct fuse_file_info *file, int operation) { return answer(flock(file->fh, operation)); }
static int release(const char *path, struct fuse_file_info *file) { return answer(close(file->fh)); }
static int get_space(const char *path, struct statvfs *found) { return answer(fstatvfs(backing, found)); }

static void *begin(struct fuse_conn_info *connection, struct fuse_config *settings)
{
    connection->want &= ~FUSE_CAP_WRITEBACK_CACHE;
    settings->use_ino = settings->hard_remove = 1;
    settings->attr_timeout = settings->entry_timeout = settings->negative_timeout = 0;
    umask(0);
    return NULL;
}

int main(int count, char **words)
{
    const char *locks = getenv("LOCKS");
    struct fuse_operations operations = {
        .init = begin, .getattr = get_attributes, .readlink = read_link, .readdir = list, .mkdir = make_folder, .symlink = make_symlink,
        .unlink = remove_file, .rmdir = remove_folder, .link = add_link, .rename = rename_to, .chmod = set_mode, .chown = set_owner,
        .utimens = set_times, .open = open_file, .create = create_file, .read = read_bytes, .write = write_bytes, .truncate = set_size,
        .fsync = synchronize, .flush = closed_once, .release = release, .statfs = get_space,
        .lock = lock_range, .flock = lock_whole,
    };
    if (locks && !strcmp(locks, "local"))
        operations.lock = NULL, operations.flock = NULL;
    if (count < 3 || (backing = open(words[1], O_RDONLY | O_DIRECTORY)) < 0)
        return 2;
    words[1] = words[0];
    return fuse_main(count - 1, words + 1, &operations, NULL);
}
