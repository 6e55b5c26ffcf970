/* The inner loop of writing: requests that wait at the front of a client's bytes and only put bytes into a file.
 *
 * Whatever is not quite usual ends the run and is left to Python: another command, a flag, a place outside of the volume,
 * old content that a copy needs, bytes that have yet to come, and a write that the kernel does not take whole. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <unistd.h>

#include "requests.h"

#define MAXIMUM_PAYLOAD (32 << 20)

static size_t page_words;

/* What the newest copy has: a word for each chunk, which is kept where the word is not below the limit. */
struct kept {
    const uint64_t *words;
    uint64_t count, limit;
    unsigned shift;
    size_t page_words;
    PyObject *pages; /* numbers of the pages of words that may be looked at */
};

/* Whether a whole request to write lies here. */
static int take(const char *at, size_t there, struct request *write)
{
    return take_request(at, there, WRITE, write) && write->length <= MAXIMUM_PAYLOAD
           && write->length <= there - REQUEST_SIZE;
}

/* -1 after an error. */
static int may_look(PyObject *pages, uint64_t page)
{
    PyObject *number = PyLong_FromUnsignedLongLong(page);
    int found = number ? PyDict_Contains(pages, number) : -1;
    Py_XDECREF(number);
    return found;
}

/* Whether nothing of the old content is needed; -1 after an error. */
static int is_kept(const struct kept *kept, const struct request *write)
{
    uint64_t first = write->offset >> kept->shift, last = (write->offset + write->length - 1) >> kept->shift;
    if (last >= kept->count)
        return 0;
    for (uint64_t page = first / kept->page_words; page <= last / kept->page_words; page++) {
        int found = may_look(kept->pages, page);
        if (found <= 0)
            return found;
    }
    for (uint64_t chunk = first; chunk <= last; chunk++)
        if (__atomic_load_n(&kept->words[chunk], __ATOMIC_RELAXED) < kept->limit)
            return 0;
    return 1;
}

static int find(const Py_buffer *buffer, Py_ssize_t *at, Py_ssize_t end, uint64_t size, Py_ssize_t most,
                const struct kept *kept, Py_ssize_t *count)
{
    struct request write;
    for (*count = 0; *count < most; ++*count) {
        if (!take((const char *)buffer->buf + *at, end - *at, &write) || write.offset > size
            || write.length > size - write.offset)
            return 0;
        if (kept->pages != Py_None) {
            int found = is_kept(kept, &write);
            if (found <= 0)
                return found;
        }
        *at += REQUEST_SIZE + write.length;
    }
    return 0;
}

static int is_within(const Py_buffer *buffer, Py_ssize_t start, Py_ssize_t end)
{
    if (start >= 0 && start <= end && end <= buffer->len)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the bytes are not in the buffer");
    return 0;
}

/* A pair; takes the second. */
static PyObject *two(Py_ssize_t first, PyObject *second)
{
    PyObject *number = PyLong_FromSsize_t(first), *pair = number && second ? PyTuple_Pack(2, number, second) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(second);
    return pair;
}

/* Least word of a kept chunk, bits of an offset within a chunk, pages that may be looked at. */
static int take_kept(struct kept *kept, PyObject *const *arguments)
{
    unsigned long shift;
    kept->limit = PyLong_AsUnsignedLongLong(arguments[0]);
    shift = PyLong_AsUnsignedLong(arguments[1]);
    kept->pages = arguments[2];
    kept->page_words = page_words;
    if (PyErr_Occurred())
        return 0;
    if (PyDict_Check(kept->pages) && shift < 64) {
        kept->shift = (unsigned)shift;
        return 1;
    }
    PyErr_SetString(PyExc_TypeError, "which pages of words may be looked at is told by a dict");
    return 0;
}

/* Of all that is called for each few writes, what is asked for costs as much as what is done: so no format is parsed. */
static PyObject *find_writes(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer buffer, words = {0};
    Py_ssize_t at, end, most, count = 0;
    unsigned long long size;
    struct kept kept = {.pages = Py_None};
    int result = -1;
    if (given != 5 && given != 9) {
        PyErr_SetString(PyExc_TypeError, "find_writes takes five arguments, or nine");
        return NULL;
    }
    at = PyLong_AsSsize_t(arguments[1]);
    end = PyLong_AsSsize_t(arguments[2]);
    size = PyLong_AsUnsignedLongLong(arguments[3]);
    most = PyLong_AsSsize_t(arguments[4]);
    if (PyErr_Occurred() || (given == 9 && !take_kept(&kept, arguments + 6))
        || PyObject_GetBuffer(arguments[0], &buffer, PyBUF_SIMPLE))
        return NULL;
    if (is_within(&buffer, at, end) && (given == 5 || !PyObject_GetBuffer(arguments[5], &words, PyBUF_SIMPLE))) {
        kept.words = words.buf;
        kept.count = words.len / sizeof *kept.words;
        result = find(&buffer, &at, end, size, most, &kept, &count);
        if (words.obj)
            PyBuffer_Release(&words);
    }
    PyBuffer_Release(&buffer);
    return result < 0 ? NULL : two(at, PyLong_FromSsize_t(count));
}

/* Returns how many were written, and where the next one begins. */
static Py_ssize_t write_all(int fd, const Py_buffer *buffer, Py_ssize_t *at, Py_ssize_t count, char *replies)
{
    struct request write;
    for (Py_ssize_t done = 0; done < count; done++) {
        const char *here = (const char *)buffer->buf + *at;
        if (!take(here, buffer->len - *at, &write)
            || pwrite(fd, here + REQUEST_SIZE, write.length, write.offset) != (ssize_t)write.length)
            return done;
        replies = put_simple(replies, &write);
        *at += REQUEST_SIZE + write.length;
    }
    return count;
}

static PyObject *do_writes(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer buffer;
    Py_ssize_t at, count, done;
    PyObject *replies = NULL;
    long fd;
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "do_writes takes four arguments");
        return NULL;
    }
    fd = PyLong_AsLong(arguments[0]);
    at = PyLong_AsSsize_t(arguments[2]);
    count = PyLong_AsSsize_t(arguments[3]);
    if (PyErr_Occurred() || PyObject_GetBuffer(arguments[1], &buffer, PyBUF_SIMPLE))
        return NULL;
    if (is_within(&buffer, at, buffer.len) && count >= 0 && count <= buffer.len / REQUEST_SIZE)
        replies = PyBytes_FromStringAndSize(NULL, count * SIMPLE_REPLY_SIZE);
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "so many requests are not in the buffer");
    if (replies) {
        char *text = PyBytes_AsString(replies);
        Py_BEGIN_ALLOW_THREADS
        done = write_all((int)fd, &buffer, &at, count, text);
        Py_END_ALLOW_THREADS
        if (done < count) {
            PyObject *all = replies;
            replies = PyBytes_FromStringAndSize(text, done * SIMPLE_REPLY_SIZE);
            Py_DECREF(all);
        }
    }
    PyBuffer_Release(&buffer);
    return replies ? two(at, replies) : NULL;
}

static PyMethodDef methods[] = {
    {"find_writes", (PyCFunction)(void (*)(void))find_writes, METH_FASTCALL,
     "find_writes(buffer, start, end, size, most, words=..., limit=..., shift=..., pages=..., /)\n\n"
     "Look for plain writes to a volume of size bytes at the front of buffer[start:end], most of them at the most.\n"
     "With words, only those whose chunks, of 1 << shift bytes, all have a word of limit or more, on one of pages.\n"
     "Returns where the next request begins, and how many there are."},
    {"do_writes", (PyCFunction)(void (*)(void))do_writes, METH_FASTCALL,
     "do_writes(fd, buffer, start, count, /)\n\n"
     "Do so many plain writes, up to one that fails or is short. Returns where the next request begins, and the replies."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_plain_writes", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__plain_writes(void)
{
    page_words = sysconf(_SC_PAGESIZE) / sizeof(uint64_t);
    return PyModule_Create(&module);
}
