/* The inner loop of small random reads of a file: those at the front of a client's bytes. What is in memory is answered at
 * once, the rest is read by threads that know nothing of Python, so its lock is neither waited for nor disturbed.
 *
 * Whatever is not quite usual ends the run and is left to Python: another command, a flag, a place outside of the volume or
 * near the one before, where reading ahead may be worth something, and an error before anything is waited for.
 *
 * Waking a thread and having it sleep again cost more than anything else about a read that misses, as the asking starts
 * the disk already. So a thread goes on from read to read, and there are only as many awake as find a few reads each; when
 * one waits for too long behind the others, who looks in the loop calls more of them. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "requests.h"

#define NAME "shadowset.random_reads"
#define STACK (64 * 1024)
#define MOST_THREADS 16
#define READS_A_THREAD 4
#define TOO_LONG 2000000 /* ns */

#define DONE 1
#define OFFSET_DATA 1
#define OFFSET_HOLE 2
#define DATA_SIZE 28
#define HOLE_SIZE 32
#define SMALL 65536

/* One that is not in memory. The objects are only for who holds Python's lock. */
struct read {
    struct read *next;
    PyObject *owner, *reply;
    char *target; /* in the reply */
    struct request request;
    uint64_t since;
    int fd, error;
};

struct pool {
    pthread_mutex_t lock;
    struct read *first, **last; /* those that wait, the oldest first; this line and the next with lock */
    unsigned waiting, busy;     /* busy is also who is called and not there yet */
    sem_t calls;
    struct read *arrived;       /* the newest first; taken as a whole */
    pthread_t threads[MOST_THREADS];
    unsigned started;
    int wake, ending;
    pid_t process;
};

/* ---- in a thread ---- */

/* 0, or the error; a file that ends early is one. */
static int read_whole(const struct read *read)
{
    size_t done = 0, length = read->request.length;
    while (done < length) {
        ssize_t count = pread(read->fd, read->target + done, length - done, (off_t)(read->request.offset + done));
        if (!count || (count < 0 && errno != EINTR))
            return count ? errno : EIO;
        done += count < 0 ? 0 : (size_t)count;
    }
    return 0;
}

/* One signal is enough for all that are there when somebody looks. */
static void publish(struct pool *pool, struct read *read)
{
    struct read *before = __atomic_load_n(&pool->arrived, __ATOMIC_RELAXED);
    do
        read->next = before;
    while (!__atomic_compare_exchange_n(&pool->arrived, &before, read, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    if (!before)
        eventfd_write(pool->wake, 1);
}

/* The oldest that waits; with none the thread is not busy any more. */
static struct read *next_read(struct pool *pool)
{
    struct read *read;
    pthread_mutex_lock(&pool->lock);
    if (!(read = pool->first))
        pool->busy--;
    else {
        if (!(pool->first = read->next))
            pool->last = &pool->first;
        pool->waiting--;
    }
    pthread_mutex_unlock(&pool->lock);
    return read;
}

static void *work(void *argument)
{
    struct pool *pool = argument;
    struct read *read;
    for (;;) {
        while ((read = next_read(pool))) {
            read->error = read_whole(read);
            publish(pool, read);
        }
        if (__atomic_load_n(&pool->ending, __ATOMIC_ACQUIRE))
            return NULL;
        while (sem_wait(&pool->calls))
            ;
    }
}

/* ---- threads, by who holds Python's lock ---- */

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* It counts as busy from now on. */
static int start_thread(struct pool *pool)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pool->ending || pthread_attr_init(&attributes))
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_attr_setstacksize(&attributes, STACK)
                 || pthread_create(&pool->threads[pool->started], &attributes, work, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    pool->started += !failed;
    pool->busy += !failed;
    return !failed;
}

/* With lock; returns how many calls are to be made when it is given up. */
static unsigned call(struct pool *pool, unsigned wanted)
{
    unsigned calls = 0;
    for (; pool->busy < wanted && pool->busy < pool->started; calls++)
        pool->busy++;
    while (pool->busy < wanted && pool->started < MOST_THREADS && start_thread(pool))
        ;
    return calls;
}

static void unlock_and_call(struct pool *pool, unsigned calls)
{
    pthread_mutex_unlock(&pool->lock);
    while (calls--)
        sem_post(&pool->calls);
}

/* Whether there is a thread for what is handed over next. */
static int has_thread(struct pool *pool)
{
    int found;
    pthread_mutex_lock(&pool->lock);
    found = !pool->ending && (pool->started || start_thread(pool));
    pthread_mutex_unlock(&pool->lock);
    return found;
}

static void hand_over(struct pool *pool, struct read *first, struct read **last, unsigned many)
{
    uint64_t since = now();
    for (struct read *each = first; each; each = each->next)
        each->since = since;
    pthread_mutex_lock(&pool->lock);
    *pool->last = first;
    pool->last = last;
    pool->waiting += many;
    unlock_and_call(pool, call(pool, (pool->waiting + pool->busy + READS_A_THREAD - 1) / READS_A_THREAD));
}

/* A thread for each that waits for too long, since those before it may wait for a slow sector. */
static void hasten(struct pool *pool)
{
    unsigned late = 0;
    uint64_t time = now();
    pthread_mutex_lock(&pool->lock);
    for (struct read *each = pool->first; each && late < MOST_THREADS && time - each->since > TOO_LONG; each = each->next)
        late++;
    unlock_and_call(pool, late ? call(pool, pool->busy + late) : 0);
}

/* ---- requests and replies ---- */

/* Whether a request to read little lies here. */
static int take(const char *at, const char *end, struct request *request)
{
    return take_request(at, (size_t)(end - at), READ, request) && request->length < SMALL;
}

static char *put_chunk(char *at, uint16_t kind, uint32_t length, const struct request *request)
{
    uint64_t offset = htobe64(request->offset);
    at = put16(put16(put32(at, STRUCTURED_REPLY_MAGIC), DONE), kind);
    at = put32(put_cookie(at, request), length);
    memcpy(at, &offset, sizeof offset);
    return at + sizeof offset;
}

/* A reply whose data has yet to come, and where it has to go. */
static PyObject *begin_reply(const struct request *request, int structured, char **target)
{
    PyObject *reply = PyBytes_FromStringAndSize(NULL, (structured ? DATA_SIZE : SIMPLE_REPLY_SIZE) + request->length);
    char *at = reply ? PyBytes_AsString(reply) : NULL;
    if (at && structured)
        *target = put_chunk(at, OFFSET_DATA, request->length + 8, request);
    else if (at)
        *target = put_simple(at, request);
    return reply;
}

/* The same, or a hole in place of zeros where the client can take it. Takes the reply. */
static PyObject *end_reply(PyObject *reply, const char *target, const struct request *request)
{
    char hole[HOLE_SIZE];
    if (PyBytes_Size(reply) != (Py_ssize_t)request->length + DATA_SIZE || *target
        || memcmp(target, target + 1, request->length - 1))
        return reply;
    put32(put_chunk(hole, OFFSET_HOLE, HOLE_SIZE - DATA_SIZE + 8, request), request->length);
    Py_DECREF(reply);
    return PyBytes_FromStringAndSize(hole, sizeof hole);
}

static void forget(struct read *read)
{
    Py_DECREF(read->owner);
    Py_XDECREF(read->reply);
    free(read);
}

static void forget_all(struct read *read)
{
    for (struct read *next; read; read = next) {
        next = read->next;
        forget(read);
    }
}

/* Its reply, or cookie, offset, length and error number. */
static PyObject *end_read(struct read *read)
{
    PyObject *result;
    uint64_t cookie;
    memcpy(&cookie, read->request.cookie, sizeof cookie);
    if (read->error)
        result = Py_BuildValue("KKIi", (unsigned long long)be64toh(cookie), (unsigned long long)read->request.offset,
                               read->request.length, read->error);
    else {
        result = end_reply(read->reply, read->target, &read->request);
        read->reply = NULL;
    }
    forget(read);
    return result;
}

/* Takes the item, which may be none after an error. */
static int append(PyObject *list, PyObject *item)
{
    int failed = !list || !item || PyList_Append(list, item);
    Py_XDECREF(item);
    return !failed;
}

/* ---- what Python calls ---- */

static struct pool *pool_of(PyObject *capsule)
{
    return PyCapsule_GetPointer(capsule, NAME);
}

struct run {
    struct pool *pool;
    PyObject *owner, *replies;
    struct read *first, **last;
    uint64_t place, bytes;
    unsigned begun;
    int fd, structured;
};

/* Have a thread read it, into the reply, which is taken. */
static int add(struct run *run, const struct request *request, PyObject *reply, char *target)
{
    struct read *read = malloc(sizeof *read);
    if (!read) {
        Py_DECREF(reply);
        PyErr_NoMemory();
        return 0;
    }
    *read = (struct read){.owner = run->owner, .reply = reply, .target = target, .request = *request, .fd = run->fd};
    Py_INCREF(read->owner);
    *run->last = read;
    run->last = &read->next;
    run->begun++;
    run->bytes += request->length;
    return 1;
}

/* Whether it is done, or will be by a thread; if not, Python is to do it, unless there is an error of Python's. */
static int read_one(struct run *run, const struct request *request)
{
    char *target = NULL;
    PyObject *reply = begin_reply(request, run->structured, &target);
    if (!reply)
        return 0;
    struct iovec vector = {target, request->length};
    ssize_t count = preadv2(run->fd, &vector, 1, (off_t)request->offset, RWF_NOWAIT);
    if (count == (ssize_t)request->length)
        return append(run->replies, end_reply(reply, target, request));
    if ((count >= 0 || errno == EAGAIN) && has_thread(run->pool))
        return add(run, request, reply, target);
    Py_DECREF(reply);
    return 0;
}

static int is_near(const struct request *request, uint64_t place, uint64_t near)
{
    return (request->offset > place ? request->offset - place : place - request->offset) <= near;
}

static const char *read_all(struct run *run, const char *at, const char *end, uint64_t size, uint64_t near, uint64_t room)
{
    struct request request;
    while (room && take(at, end, &request) && request.offset <= size && request.length <= size - request.offset
           && !is_near(&request, run->place, near) && read_one(run, &request)) {
        room -= room < request.length ? room : request.length;
        run->place = request.offset + request.length;
        at += REQUEST_SIZE;
    }
    return at;
}

static PyObject *begin(PyObject *self, PyObject *arguments)
{
    PyObject *capsule;
    Py_buffer buffer;
    Py_ssize_t many = 0;
    unsigned long long size, place, near, room;
    struct run run = {.last = &run.first};
    if (!PyArg_ParseTuple(arguments, "OOiy*KKKKp:begin", &capsule, &run.owner, &run.fd, &buffer, &size, &place, &near,
                          &room, &run.structured))
        return NULL;
    run.place = place;
    if ((run.pool = pool_of(capsule)) && (run.replies = PyList_New(0))) {
        const char *bytes = buffer.buf;
        many = (read_all(&run, bytes, bytes + buffer.len, size, near, room) - bytes) / REQUEST_SIZE;
    }
    PyBuffer_Release(&buffer);
    if (PyErr_Occurred()) {
        forget_all(run.first);
        Py_XDECREF(run.replies);
        return NULL;
    }
    if (run.begun)
        hand_over(run.pool, run.first, run.last, run.begun);
    return Py_BuildValue("nKNIK", many, (unsigned long long)run.place, run.replies, run.begun,
                         (unsigned long long)run.bytes);
}

/* All that have arrived, the oldest first. */
static struct read *take_arrived(struct pool *pool)
{
    struct read *read = __atomic_exchange_n(&pool->arrived, NULL, __ATOMIC_ACQ_REL), *first = NULL, *next;
    for (; read; read = next) {
        next = read->next;
        read->next = first;
        first = read;
    }
    return first;
}

/* The results of those at the front that have the same owner; returns the others. */
static struct read *end_group(PyObject *groups, struct read *read)
{
    PyObject *owner = read->owner, *results = PyList_New(0);
    unsigned long long bytes = 0;
    Py_INCREF(owner);
    for (struct read *next; read && read->owner == owner; read = next) {
        next = read->next;
        bytes += read->request.length;
        append(results, end_read(read));
    }
    append(groups, Py_BuildValue("NNK", owner, results, bytes));
    return read;
}

static PyObject *finish(PyObject *self, PyObject *capsule)
{
    struct pool *pool = pool_of(capsule);
    PyObject *groups = pool ? PyList_New(0) : NULL;
    if (!groups)
        return NULL;
    hasten(pool);
    for (struct read *read = take_arrived(pool); read;)
        read = end_group(groups, read);
    if (PyErr_Occurred()) {
        Py_DECREF(groups);
        return NULL;
    }
    return groups;
}

static PyObject *is_waiting(PyObject *self, PyObject *capsule)
{
    struct pool *pool = pool_of(capsule);
    int found;
    if (!pool)
        return NULL;
    pthread_mutex_lock(&pool->lock);
    found = pool->waiting && pool->busy < MOST_THREADS;
    pthread_mutex_unlock(&pool->lock);
    return PyBool_FromLong(found);
}

/* Threads that wait for the disk are waited for, and do what waits. */
static void end_threads(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    __atomic_store_n(&pool->ending, 1, __ATOMIC_RELEASE);
    unlock_and_call(pool, call(pool, pool->started));
    for (unsigned each = 0; each < pool->started; each++)
        pthread_join(pool->threads[each], NULL);
    pool->started = 0;
}

static PyObject *end(PyObject *self, PyObject *capsule)
{
    struct pool *pool = pool_of(capsule);
    if (!pool)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    end_threads(pool);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static void destroy(PyObject *capsule)
{
    struct pool *pool = pool_of(capsule);
    if (pool->process != getpid())
        return; /* the threads are the parent's */
    Py_BEGIN_ALLOW_THREADS
    end_threads(pool);
    Py_END_ALLOW_THREADS
    forget_all(take_arrived(pool));
    close(pool->wake);
    sem_destroy(&pool->calls);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static PyObject *make_pool(PyObject *self, PyObject *number)
{
    int wake = (int)PyLong_AsLong(number);
    struct pool *pool = PyErr_Occurred() ? NULL : calloc(1, sizeof *pool);
    if (!pool)
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    pool->wake = fcntl(wake, F_DUPFD_CLOEXEC, 0); /* a thread may be late, and the number somebody else's by then */
    if (pool->wake < 0) {
        free(pool);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    pthread_mutex_init(&pool->lock, NULL);
    sem_init(&pool->calls, 0, 0);
    pool->last = &pool->first;
    pool->process = getpid();
    return PyCapsule_New(pool, NAME, destroy);
}

static PyMethodDef methods[] = {
    {"make_pool", make_pool, METH_O,
     "make_pool(wake, /)\n\nThreads, as many as are needed. wake: an eventfd, written when there is something to finish."},
    {"begin", begin, METH_VARARGS,
     "begin(pool, owner, fd, buffer, size, place, near, room, structured, /)\n\n"
     "Do plain small reads of a file of size bytes at the front of buffer, while they ask for less than room, and none is\n"
     "within near bytes of the end of the one before, which is place for the first. Returns how many are done or begun,\n"
     "where the last one ends, the replies that can be sent, and how many reads, of how many bytes, are left to threads.\n"
     "Until these are finished fd must stay open."},
    {"finish", finish, METH_O,
     "finish(pool, /)\n\n"
     "What threads have done: owner, results and how many bytes were asked for, each. A result is a reply, or cookie,\n"
     "offset, length and error number. Calls more threads where a read has to wait for long."},
    {"is_waiting", is_waiting, METH_O,
     "is_waiting(pool, /)\n\nWhether a read waits for a thread, and more may be called: finish has to be called soon."},
    {"end", end, METH_O, "end(pool, /)\n\nEnd the threads, after what they have to do."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_random_reads", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__random_reads(void)
{
    return PyModule_Create(&module);
}
