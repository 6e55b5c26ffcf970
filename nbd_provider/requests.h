/* NBD's requests and replies, for the modules in C that need no object for each; protocol.py has all of them. */

#ifndef REQUESTS_H
#define REQUESTS_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define REQUEST_MAGIC 0x25609513
#define SIMPLE_REPLY_MAGIC 0x67446698
#define STRUCTURED_REPLY_MAGIC 0x668e33ef
#define REQUEST_SIZE 28
#define SIMPLE_REPLY_SIZE 16

enum command { READ, WRITE };

struct request {
    uint64_t offset;
    uint32_t length;
    char cookie[8];
};

/* Whether a request lies here that is such a command, without flags and for some bytes. */
static inline int take_request(const char *at, size_t there, enum command wanted, struct request *request)
{
    uint32_t magic, length;
    uint16_t flags, command;
    if (there < REQUEST_SIZE)
        return 0;
    memcpy(&magic, at, sizeof magic);
    memcpy(&flags, at + 4, sizeof flags);
    memcpy(&command, at + 6, sizeof command);
    memcpy(request->cookie, at + 8, sizeof request->cookie);
    memcpy(&request->offset, at + 16, sizeof request->offset);
    memcpy(&length, at + 24, sizeof length);
    request->offset = be64toh(request->offset);
    request->length = be32toh(length);
    return be32toh(magic) == REQUEST_MAGIC && !flags && be16toh(command) == wanted && request->length;
}

static inline char *put16(char *at, uint16_t number)
{
    number = htobe16(number);
    memcpy(at, &number, sizeof number);
    return at + sizeof number;
}

static inline char *put32(char *at, uint32_t number)
{
    number = htobe32(number);
    memcpy(at, &number, sizeof number);
    return at + sizeof number;
}

static inline char *put_cookie(char *at, const struct request *request)
{
    memcpy(at, request->cookie, sizeof request->cookie);
    return at + sizeof request->cookie;
}

/* A simple reply that all went well, which data may follow. */
static inline char *put_simple(char *at, const struct request *request)
{
    return put_cookie(put32(put32(at, SIMPLE_REPLY_MAGIC), 0), request);
}

#endif
