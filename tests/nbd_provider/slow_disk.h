/* Compiled before a module, in place of the kernel's reads and threads: a disk whose sectors arrive when a test says so. */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>

volatile int disk_is_cold;
volatile long long disk_stuck = -1, disk_bad = -1;
volatile int disk_threads = 1000, disk_started;

static inline ssize_t disk_pread(int fd, void *target, size_t length, off_t offset)
{
    while (offset == disk_stuck)
        usleep(1000);
    if (offset == disk_bad) {
        errno = EIO;
        return -1;
    }
    return pread(fd, target, length, offset);
}

static inline ssize_t disk_preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
    if (!disk_is_cold)
        return preadv2(fd, vector, count, offset, flags);
    errno = EAGAIN;
    return -1;
}

static inline int disk_thread(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *), void *argument)
{
    if (disk_started >= disk_threads)
        return EAGAIN;
    disk_started++;
    return pthread_create(thread, attributes, work, argument);
}

#define pread disk_pread
#define preadv2 disk_preadv2
#define pthread_create disk_thread
