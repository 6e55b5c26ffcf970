/* What the files in C share. */

#ifndef RESIDENT_H
#define RESIDENT_H

#include <Python.h>
#include <stddef.h>
#include <sys/types.h>

/* Up to length bytes from the page cache, as preadv2(2) with RWF_NOWAIT. */
ssize_t read_now(int fd, char *target, size_t length, off_t offset);

/* Whether all pages of mapped memory are in memory now. */
int is_resident(const char *start, size_t length);

/* Fill target from mapped memory: 0 where a page cannot be read. Who looks at a file next looks after these bytes. */
int copy_while_there(char *target, const char *source, size_t length);

PyObject *guard(PyObject *self, PyObject *arguments);
PyObject *fill_copy(PyObject *self, PyObject *arguments);
PyObject *send_copy(PyObject *self, PyObject *arguments);

#endif
