/* What reading a shadow copy and sending what was read share. */

#ifndef COPY_READS_H
#define COPY_READS_H

#include <Python.h>
#include <stdint.h>

#include "resident.h"

enum outcome { UNUSUAL = -1, NOT_CACHED, FILLED };

struct copy {
    int head, origin, table;
    uint64_t limit, chunk;
    const int *segments;
    Py_ssize_t many;
    long long row_at;
    Py_buffer row;
    const char *losses;
};

struct part {
    char *target;
    uint64_t offset, length;
    const char *mapped; /* the origin's bytes, or NULL */
};

/* Any thread; what it filled was looked at, so it stays right for as long as the copy is wanted. */
enum outcome fill_part(const struct copy *copy, const struct part *part);

struct arguments {
    struct copy copy;
    struct part part;
    Py_buffer target, segments, window;
};

int take_place(struct arguments *given, PyObject *place, PyObject **mapped, Py_ssize_t *at);
int take_window(struct arguments *given, PyObject *mapped, Py_ssize_t at, uint64_t length);
void let_place_go(struct arguments *given);

#endif
