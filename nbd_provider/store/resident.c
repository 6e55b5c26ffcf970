/* The inner loops of reading: what is in memory, from a mapped file or by a descriptor, and what arrives there together.
 *
 * preadv(2) looks up, takes and lets go each page of the page cache; for bytes that are mapped already that costs more
 * than copying them. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "resident.h"

#define ASKED 1024
#define LARGE 65536

static size_t page;

int is_resident(const char *start, size_t length)
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
        copied = (!ask || is_resident(source, target.len)) && copy_while_there(target.buf, source, target.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&window);
    return copied < 0 ? NULL : PyBool_FromLong(copied);
}

/* ---- by a descriptor ---- */

ssize_t read_now(int fd, char *target, size_t length, off_t offset)
{
    struct iovec vector = {target, length};
    return preadv2(fd, &vector, 1, offset, RWF_NOWAIT);
}

/* Where little is copied, letting others run meanwhile would cost more. */
static PyObject *read_cached(PyObject *self, PyObject *arguments)
{
    Py_buffer target;
    long long offset;
    ssize_t count;
    int fd;
    if (!PyArg_ParseTuple(arguments, "iLw*:read_cached", &fd, &offset, &target))
        return NULL;
    if (target.len < LARGE)
        count = read_now(fd, target.buf, target.len, offset);
    else {
        Py_BEGIN_ALLOW_THREADS
        count = read_now(fd, target.buf, target.len, offset);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&target);
    if (count < 0 && errno != EAGAIN)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyBool_FromLong(count == target.len);
}

struct range {
    long long offset;
    Py_ssize_t length;
};

/* 0, or the error; a file that ends early is one. */
static int read_whole(int fd, char *target, const struct range *range)
{
    Py_ssize_t done = 0;
    while (done < range->length) {
        ssize_t count = pread(fd, target + done, range->length - done, range->offset + done);
        if (!count || (count < 0 && errno != EINTR))
            return count ? errno : EIO;
        done += count < 0 ? 0 : count;
    }
    return 0;
}

static Py_ssize_t read_ranges(int fd, const struct range *ranges, Py_ssize_t many, char *target, int start, int *error)
{
    Py_ssize_t done;
    for (Py_ssize_t each = 0; start && each < many; each++)
        posix_fadvise(fd, ranges[each].offset, ranges[each].length, POSIX_FADV_WILLNEED);
    for (done = 0; done < many && !*error; done++) {
        if (!done)
            *error = read_whole(fd, target, ranges);
        else {
            ssize_t count = read_now(fd, target, ranges[done].length, ranges[done].offset);
            if (count < 0 && errno != EAGAIN && errno != EOPNOTSUPP && errno != EINTR)
                *error = errno;
            else if (count < ranges[done].length)
                return done;
        }
        target += ranges[done].length;
    }
    return *error ? done - 1 : done;
}

static struct range *take_ranges(PyObject *list, Py_ssize_t *many, Py_ssize_t room)
{
    struct range *ranges;
    *many = PyList_Size(list);
    ranges = *many > 0 ? PyMem_Malloc(*many * sizeof *ranges) : NULL;
    if (!ranges) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "there are no ranges");
        return NULL;
    }
    for (Py_ssize_t each = 0; each < *many; each++) {
        struct range *range = &ranges[each];
        PyObject *pair = PyList_GetItem(list, each);
        if (!pair || !PyTuple_Check(pair))
            PyErr_SetString(PyExc_TypeError, "a range is a tuple of offset and length");
        else if (PyArg_ParseTuple(pair, "Ln", &range->offset, &range->length) && range->length >= 0
                 && (room -= range->length) >= 0)
            continue;
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the ranges are larger than their target");
        PyMem_Free(ranges);
        return NULL;
    }
    return ranges;
}

static PyObject *read_arrived(PyObject *self, PyObject *arguments)
{
    Py_buffer target;
    PyObject *list;
    struct range *ranges;
    Py_ssize_t many, done;
    int fd, start, error = 0;
    if (!PyArg_ParseTuple(arguments, "iO!w*p:read_arrived", &fd, &PyList_Type, &list, &target, &start))
        return NULL;
    ranges = take_ranges(list, &many, target.len);
    if (ranges) {
        Py_BEGIN_ALLOW_THREADS
        done = read_ranges(fd, ranges, many, target.buf, start, &error);
        Py_END_ALLOW_THREADS
        PyMem_Free(ranges);
    }
    PyBuffer_Release(&target);
    return ranges ? Py_BuildValue("ni", done, error) : NULL;
}

static PyMethodDef methods[] = {
    {"fill_copy", fill_copy, METH_VARARGS,
     "fill_copy(target, offset, fixed, row, segments, window, at, /)\n\n"
     "Fill target with a copy's bytes from memory, checked: True; False where a disk would have to be waited for, None\n"
     "where a closer look is needed. fixed: head, origin, table, offset of the row, path of the record of losses,\n"
     "least word of a chunk that a slot keeps, chunk size. row: as it was when the copy lived. segments: packed\n"
     "descriptors by number. window: of the origin, None reads it plainly; at: where in it target begins."},
    {"send_copy", send_copy, METH_VARARGS,
     "send_copy(socket, replies, holes, place, /)\n\n"
     "Send replies, which are headers and lengths of what follows from an offset on, as fill_copy fills them; place\n"
     "are its arguments, target the memory for each piece. Returns how many are done; then, where the\n"
     "socket has not taken all, how many of these were in the last piece, how many bytes of it are left, and where in\n"
     "target its data begins. With holes, what is all zeros is left to others, as is what fill_copy does not fill."},
    {"guard", guard, METH_VARARGS,
     "guard(memory, lost, /)\n\n"
     "From now on a page of memory, a mapped file, that its file has lost or its disk does not give or take is replaced by\n"
     "zeros when it is touched, and lost[0] is 1. That ends with what it returns, which keeps both in use."},
    {"read_cached", read_cached, METH_VARARGS,
     "read_cached(fd, offset, target, /)\n\nFill target from the page cache, or say False. Errors: OSError."},
    {"read_arrived", read_arrived, METH_VARARGS,
     "read_arrived(fd, ranges, target, start, /)\n\n"
     "Read (offset, length) ranges into target, one after the other: wait for the first, then take those that are in\n"
     "memory, up to one that is not. With start, start all of them at the disk before. Returns how many were read and\n"
     "the error number of the next one, or 0."},
    {"copy_resident", copy_resident, METH_VARARGS,
     "copy_resident(target, window, offset, ask=True, /)\n\n"
     "Fill target from a mapped file. False where a page is not in memory, or, with ask=False, cannot be read."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_resident", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resident(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    return PyModule_Create(&module);
}
