/* A read of a shadow copy where all is as usual, by one call: the head's words, origin and slots, then the looks that
 * say whether it counts. It follows copy_files.py, which does what is not as usual; docs/shadow-storage.md has the
 * format, and docs/concurrency.md why the looks come in this order. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "copy_reads.h"

#define MOST_CHUNKS 1024
#define MOST_STEPS 1024
#define MOST_ROW 256
#define SLOT_BITS 40
#define SLOT_MASK ((UINT64_C(1) << SLOT_BITS) - 1)
#define SEGMENT_SLOTS (UINT64_C(1) << 20)
#define RECORD 32
#define RECORD_PREVIOUS 8
#define BRIDGE 4

static enum outcome plain(int fd, char *target, uint64_t length, uint64_t offset)
{
    ssize_t count = read_now(fd, target, length, offset);
    if (count < 0)
        return errno == EAGAIN ? NOT_CACHED : UNUSUAL;
    return (uint64_t)count == length ? FILLED : NOT_CACHED;
}

/* Read twice alike, as another process may just be storing it. */
static int previous_word(int fd, uint64_t slot, uint64_t *word)
{
    uint64_t again;
    off_t at = slot % SEGMENT_SLOTS * RECORD + RECORD_PREVIOUS;
    return pread(fd, word, sizeof *word, at) == sizeof *word && pread(fd, &again, sizeof again, at) == sizeof again
           && *word == again;
}

static int segment_of(const struct copy *copy, uint64_t slot)
{
    uint64_t number = slot / SEGMENT_SLOTS;
    return number < (uint64_t)copy->many ? copy->segments[number] : -1;
}

/* The slot of a kept chunk. Labels fall from word to word, so what is behind the copy's own need not be looked at. */
static int find_slot(const struct copy *copy, uint64_t word, uint64_t *slot, int *fd)
{
    for (int step = 0; step < MOST_STEPS; step++) {
        *slot = (word & SLOT_MASK) - 1;
        *fd = segment_of(copy, *slot);
        if (*fd < 0)
            return 0;
        if (word >> SLOT_BITS == copy->limit >> SLOT_BITS)
            return 1;
        if (!previous_word(*fd, *slot, &word))
            return 0;
        if (word < copy->limit)
            return 1;
        if ((word & SLOT_MASK) > *slot) /* slots are taken in order */
            return 0;
    }
    return 0;
}

/* How many chunks lie in slots that follow each other, as they do after one large write. */
static size_t adjoining(const struct copy *copy, const uint64_t *words, size_t count)
{
    size_t many = 1;
    if (*words >> SLOT_BITS == copy->limit >> SLOT_BITS)
        while (many < count && words[many] == *words + many && (words[many] - 1) % SEGMENT_SLOTS)
            many++;
    return many;
}

static enum outcome fill_kept(const struct copy *copy, uint64_t word, uint64_t within, char *target, uint64_t length)
{
    uint64_t slot;
    int fd;
    if (!find_slot(copy, word, &slot, &fd))
        return UNUSUAL;
    return plain(fd, target, length, SEGMENT_SLOTS * RECORD + slot % SEGMENT_SLOTS * copy->chunk + within);
}

/* Chunks from first to end, of which the origin has the first and the last. */
static enum outcome fill_run(const struct copy *copy, const struct part *part, uint64_t first, uint64_t end)
{
    uint64_t begin = part->offset / copy->chunk * copy->chunk, stop = begin + end * copy->chunk - part->offset;
    uint64_t start = first ? begin + first * copy->chunk - part->offset : 0;
    if (stop > part->length)
        stop = part->length;
    if (!part->mapped)
        return plain(copy->origin, part->target + start, stop - start, part->offset + start);
    return copy_while_there(part->target + start, part->mapped + start, stop - start) ? FILLED : NOT_CACHED;
}

/* Few kept chunks within a run are read along where that costs less than another read. */
static enum outcome fill_origin(const struct copy *copy, const struct part *part, const uint64_t *words, size_t count)
{
    const size_t bridge = part->mapped ? 0 : BRIDGE;
    enum outcome outcome = part->mapped && !is_resident(part->mapped, part->length) ? NOT_CACHED : FILLED;
    for (size_t first = 0, end; outcome == FILLED && first < count; first = end) {
        size_t look = end = first + 1;
        if (words[first] >= copy->limit)
            continue;
        for (; look < count && look - end <= bridge; look++)
            if (words[look] < copy->limit)
                end = look + 1;
        outcome = fill_run(copy, part, first, end);
    }
    return outcome;
}

static enum outcome fill_chunks(const struct copy *copy, const struct part *part, const uint64_t *words, size_t count)
{
    uint64_t place = part->offset / copy->chunk * copy->chunk, stop = part->offset + part->length;
    enum outcome outcome = fill_origin(copy, part, words, count);
    for (size_t each = 0, many; outcome == FILLED && each < count; each += many, place += many * copy->chunk) {
        uint64_t start = place < part->offset ? part->offset : place, end;
        many = 1;
        if (words[each] < copy->limit)
            continue;
        many = adjoining(copy, words + each, count - each);
        end = place + many * copy->chunk < stop ? place + many * copy->chunk : stop;
        outcome = fill_kept(copy, words[each], start - place, part->target + (start - part->offset), end - start);
    }
    return outcome;
}

/* What a file is cut off by is zeros in its last page. Its size says so before these can be seen. */
static int reaches(int fd, uint64_t end)
{
    struct stat status;
    return !fstat(fd, &status) && (S_ISBLK(status.st_mode) || (uint64_t)status.st_size >= end);
}

static int still_lives(const struct copy *copy)
{
    char row[MOST_ROW];
    struct stat status;
    return pread(copy->table, row, copy->row.len, copy->row_at) == copy->row.len
           && !memcmp(row, copy->row.buf, copy->row.len) && stat(copy->losses, &status) && errno == ENOENT;
}

enum outcome fill_part(const struct copy *copy, const struct part *part)
{
    uint64_t words[MOST_CHUNKS], again[MOST_CHUNKS], first = part->offset / copy->chunk;
    size_t count = (part->offset + part->length - 1) / copy->chunk - first + 1, size = count * sizeof *words;
    enum outcome outcome;
    if (count > MOST_CHUNKS || pread(copy->head, words, size, first * sizeof *words) != (ssize_t)size)
        return UNUSUAL;
    outcome = fill_chunks(copy, part, words, count);
    if (outcome != FILLED)
        return outcome;
    if (pread(copy->head, again, size, first * sizeof *again) != (ssize_t)size || memcmp(words, again, size))
        return UNUSUAL;
    if (part->mapped && !reaches(copy->origin, part->offset + part->length))
        return UNUSUAL;
    return still_lives(copy) ? FILLED : UNUSUAL;
}

/* ---- from Python ---- */

int take_window(struct arguments *given, PyObject *mapped, Py_ssize_t at, uint64_t length)
{
    if (!given->target.len || !given->copy.chunk || given->copy.row.len > MOST_ROW)
        PyErr_SetString(PyExc_ValueError, "there is nothing to fill, or a row is too long");
    else if (mapped == Py_None)
        return 1;
    else if (!PyObject_GetBuffer(mapped, &given->window, PyBUF_SIMPLE)) {
        if (at >= 0 && at <= given->window.len && length <= (uint64_t)(given->window.len - at)) {
            given->part.mapped = (const char *)given->window.buf + at;
            return 1;
        }
        PyErr_SetString(PyExc_ValueError, "the range is not in the window");
    }
    return 0;
}

/* Of what is fixed: head, origin, table, offset of the row, record of losses, least word of a kept chunk, chunk size. */
int take_place(struct arguments *given, PyObject *place, PyObject **mapped, Py_ssize_t *at)
{
    struct copy *copy = &given->copy;
    unsigned long long offset, limit, chunk;
    if (!PyArg_ParseTuple(place, "w*K(iiiLyKK)y*y*On", &given->target, &offset, &copy->head, &copy->origin,
                          &copy->table, &copy->row_at, &copy->losses, &limit, &chunk, &copy->row, &given->segments,
                          mapped, at))
        return 0;
    copy->limit = limit;
    copy->chunk = chunk;
    copy->segments = given->segments.buf;
    copy->many = given->segments.len / (Py_ssize_t)sizeof *copy->segments;
    given->part = (struct part){given->target.buf, offset, given->target.len, NULL};
    return 1;
}

void let_place_go(struct arguments *given)
{
    if (given->window.buf)
        PyBuffer_Release(&given->window);
    PyBuffer_Release(&given->target);
    PyBuffer_Release(&given->copy.row);
    PyBuffer_Release(&given->segments);
}

PyObject *fill_copy(PyObject *self, PyObject *place)
{
    struct arguments given = {0};
    PyObject *mapped, *result = NULL;
    Py_ssize_t at;
    if (!take_place(&given, place, &mapped, &at))
        return NULL;
    if (take_window(&given, mapped, at, given.part.length)) {
        enum outcome outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = fill_part(&given.copy, &given.part);
        Py_END_ALLOW_THREADS
        result = outcome == UNUSUAL ? Py_NewRef(Py_None) : PyBool_FromLong(outcome == FILLED);
    }
    let_place_go(&given);
    return result;
}
