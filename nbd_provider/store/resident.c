/* Copying out of a mapped file, as far as its pages are in memory: the inner loop of reading a shadow copy.
 *
 * preadv(2) looks up, takes and lets go each page of the page cache; for bytes that are mapped already that costs more
 * than copying them. A page that its disk cannot read again, or that its file has lost, raises SIGBUS: here it ends the
 * copying and not the process. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ASKED 1024

/* there before a handler looks at it */
#define OF_THREAD static __thread __attribute__((tls_model("initial-exec")))
#define BARRIER __asm__ volatile("" ::: "memory")

OF_THREAD sigjmp_buf back;
OF_THREAD volatile sig_atomic_t armed;
OF_THREAD const char *armed_start, *armed_end;
static struct sigaction before;
static volatile sig_atomic_t passed_on;
static size_t page;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    const char *where = info->si_addr;
    (void)context;
    if (armed && info->si_code > 0 && where >= armed_start && where < armed_end) {
        armed = 0;
        siglongjmp(back, 1);
    }
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

static int is_resident(const char *start, size_t length)
{
    unsigned char pages[ASKED];
    char *first = (char *)((uintptr_t)start & ~(page - 1));
    size_t count = (start + length - first + page - 1) / page;
    while (count) {
        size_t asked = count < ASKED ? count : ASKED;
        if (mincore(first, asked * page, pages))
            return 0;
        for (size_t each = 0; each < asked; each++)
            if (!(pages[each] & 1))
                return 0;
        first += asked * page;
        count -= asked;
    }
    return 1;
}

static int copy(char *target, const char *source, size_t length)
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

static PyObject *copy_resident(PyObject *self, PyObject *arguments)
{
    Py_buffer target, window;
    Py_ssize_t offset;
    int ask = 1, copied = -1;
    if (!PyArg_ParseTuple(arguments, "w*y*n|p:copy_resident", &target, &window, &offset, &ask))
        return NULL;
    if (offset < 0 || offset > window.len || target.len > window.len - offset)
        PyErr_SetString(PyExc_ValueError, "the range is not in the window");
    else {
        Py_BEGIN_ALLOW_THREADS
        const char *source = (const char *)window.buf + offset;
        copied = (!ask || is_resident(source, target.len)) && copy(target.buf, source, target.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&window);
    return copied < 0 ? NULL : PyBool_FromLong(copied);
}

static PyMethodDef methods[] = {
    {"copy_resident", copy_resident, METH_VARARGS,
     "copy_resident(target, window, offset, ask=True, /)\n\n"
     "Fill target from a mapped file. False where a page is not in memory, or, with ask=False, cannot be read."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_resident", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resident(void)
{
    page = sysconf(_SC_PAGESIZE);
    return PyModule_Create(&module);
}
