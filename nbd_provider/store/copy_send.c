/* Replies to reads of a copy that adjoin, read and sent in pieces by two threads: the caller's, and another that is there
 * for all callers. Each sends the next piece that was read, if the other is not sending, and else reads the next one that
 * there is memory for. So pieces go out in order, and nobody waits as long as there is something to do. A piece that was
 * read was also looked at; it stays right, whatever the writer does until it is sent. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "copy_reads.h"

#define MOST_REPLIES 64
#define MOST_LENGTH UINT32_MAX
#define MEMORIES 2
#define PAGE 4096
#define STACK (256 * 1024)

struct reply {
    char *header;
    Py_ssize_t header_length;
    uint64_t length;
};

struct piece {
    const struct reply *replies;
    Py_ssize_t count;
    struct part part;
    enum { UNREAD, READ, LEFT } state; /* LEFT: to others */
};

struct run {
    const struct copy *copy;
    struct reply replies[MOST_REPLIES];
    struct piece pieces[MOST_REPLIES];
    int socket, holes;
    Py_ssize_t given, done, unsent; /* given, done: replies; unsent: bytes of the last piece of these */
    int many, next, turn;                  /* pieces; the next to be read, and to be sent */
    int over, sending, waiting, helped;
    char *memory[MEMORIES];
    int free;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t offered = PTHREAD_COND_INITIALIZER, changed = PTHREAD_COND_INITIALIZER;
static struct run *offer;
static int asked;

/* ---- one piece ---- */

static int is_zero(const char *data, uint64_t length)
{
    return !data[0] && !data[length - 1] && (length == 1 || !memcmp(data, data + 1, length - 1));
}

/* Whether a client that takes holes would be told of one. */
static int has_hole(const struct piece *piece)
{
    const char *data = piece->part.target;
    for (Py_ssize_t each = 0; each < piece->count; data += piece->replies[each++].length)
        if (is_zero(data, piece->replies[each].length))
            return 1;
    return 0;
}

/* Returns how many of its bytes the socket has not taken. */
static Py_ssize_t send_piece(int socket, const struct piece *piece)
{
    struct iovec vector[2 * MOST_REPLIES];
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = 2 * piece->count};
    char *data = piece->part.target;
    Py_ssize_t total = 0;
    for (Py_ssize_t each = 0; each < piece->count; each++) {
        const struct reply *reply = &piece->replies[each];
        vector[2 * each] = (struct iovec){reply->header, reply->header_length};
        vector[2 * each + 1] = (struct iovec){data, reply->length};
        data += reply->length;
        total += reply->header_length + reply->length;
    }
    ssize_t sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? total : total - sent; /* who sends the rest meets the error */
}

/* As many replies for each as there is room for. */
static void cut(struct run *run, struct part part, uint64_t room)
{
    for (Py_ssize_t first = 0; first < run->given; run->many++) {
        struct piece *piece = &run->pieces[run->many];
        *piece = (struct piece){&run->replies[first], 0, {NULL, part.offset, 0, part.mapped}, UNREAD};
        while (first < run->given && piece->part.length + run->replies[first].length <= room) {
            piece->part.length += run->replies[first++].length;
            piece->count++;
        }
        if (!piece->count)
            return;
        part.offset += piece->part.length;
        if (part.mapped)
            part.mapped += piece->part.length;
    }
}

/* ---- two threads; the lock is held, but while a piece is read or sent ---- */

static void tell(const struct run *run)
{
    if (run->waiting)
        pthread_cond_broadcast(&changed);
}

static void read_next(struct run *run)
{
    int number = run->next++;
    struct piece *piece = &run->pieces[number];
    piece->part.target = run->memory[--run->free];
    pthread_mutex_unlock(&lock);
    int whole = fill_part(run->copy, &piece->part) == FILLED && !(run->holes && has_hole(piece));
    pthread_mutex_lock(&lock);
    piece->state = whole ? READ : LEFT;
    if (!whole && number < run->many) /* what comes after it is not wanted */
        run->many = run->next = number + 1;
    tell(run);
}

static void send_next(struct run *run)
{
    struct piece *piece = &run->pieces[run->turn];
    run->over = piece->state == LEFT;
    if (!run->over) {
        run->sending = 1;
        pthread_mutex_unlock(&lock);
        Py_ssize_t unsent = send_piece(run->socket, piece);
        pthread_mutex_lock(&lock);
        run->sending = 0;
        run->done += piece->count;
        run->memory[run->free++] = piece->part.target;
        run->unsent = unsent;
        run->over = unsent || ++run->turn == run->many;
    }
    tell(run);
}

static void work(struct run *run, int helping)
{
    while (!run->over) {
        if (!run->sending && run->pieces[run->turn].state)
            send_next(run);
        else if (run->next < run->many && run->free)
            read_next(run);
        else if (helping && run->next == run->many)
            return;
        else {
            run->waiting++;
            pthread_cond_wait(&changed, &lock);
            run->waiting--;
        }
    }
}

static void *help(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        struct run *run = offer;
        if (!run) {
            pthread_cond_wait(&offered, &lock);
            continue;
        }
        offer = NULL;
        run->helped = 1;
        work(run, 1);
        run->helped = 0;
        tell(run);
    }
    return unused;
}

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

/* The thread is not in the child. */
static void in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&offered, NULL);
    pthread_cond_init(&changed, NULL);
    offer = NULL;
    asked = 0;
}

/* Its signals are those that its own instructions raise. */
static void start_helper(void)
{
    static int registered;
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    cpu_set_t processors;
    asked = 1;
    if (sched_getaffinity(0, sizeof processors, &processors) || CPU_COUNT(&processors) < 2)
        return;
    if (!registered && pthread_atfork(before_fork, after_fork, in_child))
        return;
    registered = 1;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    if (pthread_attr_init(&attributes))
        return;
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_create(&thread, &attributes, help, NULL); /* without it the caller does all */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

static void send_all(struct run *run)
{
    const int two = run->many > 1 && run->free > 1;
    pthread_mutex_lock(&lock);
    if (two && !asked)
        start_helper();
    if (two && !offer) {
        offer = run;
        pthread_cond_signal(&offered);
    }
    run->over = !run->many;
    work(run, 0);
    if (offer == run)
        offer = NULL;
    while (run->helped) {
        run->waiting++;
        pthread_cond_wait(&changed, &lock);
        run->waiting--;
    }
    pthread_mutex_unlock(&lock);
}

/* ---- from Python ---- */

static int take_replies(struct run *run, PyObject *list, uint64_t *length)
{
    Py_ssize_t many = PyList_Size(list);
    if (many > MOST_REPLIES)
        many = MOST_REPLIES;
    for (; run->given < many; run->given++) {
        struct reply *reply = &run->replies[run->given];
        PyObject *pair = PyList_GetItem(list, run->given), *header;
        unsigned long long count;
        if (!pair || !PyTuple_Check(pair) || !PyArg_ParseTuple(pair, "SK", &header, &count)
            || PyBytes_AsStringAndSize(header, &reply->header, &reply->header_length))
            break;
        if (!count || count > MOST_LENGTH) {
            PyErr_SetString(PyExc_ValueError, "a reply has some bytes, and no more than a request can ask for");
            break;
        }
        reply->length = count;
        *length += count;
    }
    if (run->given < many && !PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "a reply is a tuple of header and length");
    return run->given == many;
}

/* In parts that are as large as each other, or, where a reply needs it all, in one. */
static uint64_t take_memory(struct run *run, const struct part *part)
{
    uint64_t room = part->length / MEMORIES & ~(uint64_t)(PAGE - 1);
    run->free = run->given && room >= run->replies->length ? MEMORIES : 1;
    for (int each = 0; each < run->free; each++)
        run->memory[each] = part->target + each * room;
    return run->free > 1 ? room : part->length;
}

PyObject *send_copy(PyObject *self, PyObject *arguments)
{
    struct arguments given = {0};
    struct run run = {.copy = &given.copy};
    PyObject *place, *list, *mapped, *result = NULL;
    Py_ssize_t at;
    uint64_t length = 0;
    if (!PyArg_ParseTuple(arguments, "iO!pO!:send_copy", &run.socket, &PyList_Type, &list, &run.holes, &PyTuple_Type, &place)
        || !take_replies(&run, list, &length) || !take_place(&given, place, &mapped, &at))
        return NULL;
    if (take_window(&given, mapped, at, length)) {
        const struct piece *last = run.pieces;
        Py_BEGIN_ALLOW_THREADS
        cut(&run, given.part, take_memory(&run, &given.part));
        send_all(&run);
        Py_END_ALLOW_THREADS
        if (run.unsent)
            last += run.turn;
        result = Py_BuildValue("nnnn", run.done, run.unsent ? last->count : 0, run.unsent,
                               run.unsent ? (Py_ssize_t)(last->part.target - given.part.target) : 0);
    }
    let_place_go(&given);
    return result;
}
