/* Pages that a disk cannot read again, or does not take, or that their file has lost, raise SIGBUS, which would end the
 * process. Here it ends a copying, or leaves zeros and a word of it where the page was. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "resident.h"

/* A mapped file in which pages may be touched. It stays in the list, which a handler may just be walking through. */
struct guard {
    uintptr_t start, end; /* with an end of 0 it is free to be used again */
    Py_buffer memory, lost;
    struct guard *next;
};

static struct guard *guards;

/* Zeros in place of a page, so that what touched it goes on; who did it looks at the flag, which is there before. */
static int replace(const char *where)
{
    uintptr_t address = (uintptr_t)where, size = (uintptr_t)sysconf(_SC_PAGESIZE);
    struct guard *each = __atomic_load_n(&guards, __ATOMIC_ACQUIRE);
    for (; each; each = each->next)
        if (address < __atomic_load_n(&each->end, __ATOMIC_ACQUIRE) && address >= each->start) {
            int error = errno;
            __atomic_store_n((char *)each->lost.buf, 1, __ATOMIC_SEQ_CST);
            void *page = mmap((void *)(address & ~(size - 1)), size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            errno = error;
            return page != MAP_FAILED;
        }
    return 0;
}

/* there before a handler looks at it */
#define OF_THREAD static __thread __attribute__((tls_model("initial-exec")))
#define BARRIER __asm__ volatile("" ::: "memory")

OF_THREAD sigjmp_buf back;
OF_THREAD volatile sig_atomic_t armed;
OF_THREAD const char *armed_start, *armed_end;
static struct sigaction before;
static volatile sig_atomic_t passed_on;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    const char *where = info->si_addr;
    (void)context;
    if (armed && info->si_code > 0 && where >= armed_start && where < armed_end) {
        armed = 0;
        siglongjmp(back, 1);
    }
    if (info->si_code > 0 && replace(where))
        return;
    /* Not ours: to whom it was before, by doing the instruction again. Who comes back to us from there ends it. */
    if (passed_on)
        signal(number, SIG_DFL);
    else
        sigaction(number, &before, NULL);
    passed_on = 1;
    if (info->si_code <= 0)
        raise(number);
}

/* Others, as Python's faulthandler, may have come after us. */
static int be_first(void)
{
    struct sigaction now, ours = {0};
    if (sigaction(SIGBUS, NULL, &now))
        return 0;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus_error)
        return 1;
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    before = now;
    passed_on = 0;
    return !sigaction(SIGBUS, &ours, NULL);
}

int copy_while_there(char *target, const char *source, size_t length)
{
    if (!be_first())
        return 0;
    armed_start = source;
    armed_end = source + length;
    if (sigsetjmp(back, 0))
        return 0;
    armed = 1;
    BARRIER;
    memcpy(target, source, length);
    BARRIER;
    armed = 0;
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* who looks at the head next looks at it after these bytes */
    return 1;
}

static void end_guard(PyObject *capsule)
{
    struct guard *guard = PyCapsule_GetPointer(capsule, NULL);
    __atomic_store_n(&guard->end, 0, __ATOMIC_RELEASE);
    PyBuffer_Release(&guard->memory);
    PyBuffer_Release(&guard->lost);
}

/* One that is free, or a new one, which is in the list already. */
static struct guard *take_guard(void)
{
    struct guard *guard = guards;
    while (guard && guard->end)
        guard = guard->next;
    if (!guard && (guard = calloc(1, sizeof *guard))) {
        guard->next = guards;
        __atomic_store_n(&guards, guard, __ATOMIC_RELEASE);
    }
    return guard;
}

PyObject *guard(PyObject *self, PyObject *arguments)
{
    Py_buffer memory, lost;
    struct guard *taken = NULL;
    PyObject *capsule = NULL;
    if (!PyArg_ParseTuple(arguments, "y*w*:guard", &memory, &lost))
        return NULL;
    if (!memory.len || !lost.len)
        PyErr_SetString(PyExc_ValueError, "there is nothing to guard, or no flag");
    else if (!be_first())
        PyErr_SetFromErrno(PyExc_OSError);
    else if (!(taken = take_guard()))
        PyErr_NoMemory();
    else
        capsule = PyCapsule_New(taken, NULL, end_guard);
    if (!capsule) {
        PyBuffer_Release(&memory);
        PyBuffer_Release(&lost);
        return NULL;
    }
    taken->memory = memory;
    taken->lost = lost;
    taken->start = (uintptr_t)memory.buf;
    __atomic_store_n(&taken->end, taken->start + (uintptr_t)memory.len, __ATOMIC_RELEASE);
    return capsule;
}
