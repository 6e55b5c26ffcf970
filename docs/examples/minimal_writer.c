/* A writer in C, without any library: minimal_writer SOCKET DIRECTORY
 *
 *     cc -o minimal_writer minimal_writer.c
 *
 * Of a message it reads three fields ("kind", "event", "seq") and "instance_id", and steps over everything else. It comes
 * back whenever the coordinator was started again. What freezes and thaws your application goes into act(). */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WRITER_ID "9a0cf6a4-40f1-4a3e-8b51-2f5d2a7c1e94"
#define NAME "Minimal C Writer"
#define MAX_FRAME (16u << 20)

struct reader { const unsigned char *at, *end; };
struct text { const char *start; uint32_t length; };

/* --- MessagePack: reading. Every function returns 0 when the message is broken. */

static int number(struct reader *in, int bytes, uint64_t *value) {
    if (in->end - in->at < bytes) return 0;
    for (*value = 0; bytes > 0; bytes--) *value = *value << 8 | *in->at++;
    return 1;
}

/* The head of one value: how many bytes follow it, and how many values. */
static int head(struct reader *in, uint64_t *bytes, uint64_t *values, uint64_t *unsigned_value) {
    uint64_t n = 0, first;
    *bytes = *values = 0;
    if (!number(in, 1, &first)) return 0;
    *unsigned_value = first;
    if (first <= 0x7f || first >= 0xe0 || (first >= 0xc0 && first <= 0xc3 && first != 0xc1)) return 1;
    if (first <= 0x8f) return *values = 2 * (first & 15), 1;
    if (first <= 0x9f) return *values = first & 15, 1;
    if (first <= 0xbf) return *bytes = first & 31, 1;
    switch (first) {
    case 0xc4: case 0xd9: if (!number(in, 1, &n)) return 0; *bytes = n; return 1;
    case 0xc5: case 0xda: if (!number(in, 2, &n)) return 0; *bytes = n; return 1;
    case 0xc6: case 0xdb: if (!number(in, 4, &n)) return 0; *bytes = n; return 1;
    case 0xc7: if (!number(in, 1, &n)) return 0; *bytes = n + 1; return 1;
    case 0xc8: if (!number(in, 2, &n)) return 0; *bytes = n + 1; return 1;
    case 0xc9: if (!number(in, 4, &n)) return 0; *bytes = n + 1; return 1;
    case 0xca: *bytes = 4; return 1;
    case 0xcb: *bytes = 8; return 1;
    case 0xcc: return number(in, 1, unsigned_value);
    case 0xcd: return number(in, 2, unsigned_value);
    case 0xce: return number(in, 4, unsigned_value);
    case 0xcf: return number(in, 8, unsigned_value);
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: *bytes = 1u << (first - 0xd0); return 1;
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: *bytes = (1u << (first - 0xd4)) + 1; return 1;
    case 0xdc: return number(in, 2, values);
    case 0xdd: return number(in, 4, values);
    case 0xde: if (!number(in, 2, &n)) return 0; *values = 2 * n; return 1;
    case 0xdf: if (!number(in, 4, &n)) return 0; *values = 2 * n; return 1;
    }
    return 0; /* 0xc1 means nothing */
}

/* Steps over one value with all that is in it; text and number of that value alone. */
static int value(struct reader *in, struct text *text, uint64_t *number_value) {
    uint64_t left = 1, bytes, values, found;
    int outermost = 1;
    for (; left > 0; left--, outermost = 0) {
        if (!head(in, &bytes, &values, &found) || bytes > (uint64_t)(in->end - in->at)) return 0;
        if (outermost) *text = (struct text){(const char *)in->at, (uint32_t)bytes}, *number_value = found;
        in->at += bytes;
        left += values;
    }
    return 1;
}

static int is(struct text text, const char *word) {
    return text.length == strlen(word) && !memcmp(text.start, word, text.length);
}

/* --- MessagePack: writing, into a buffer that is large enough for what is written here */

static unsigned char out[8192];
static size_t used;

static void put(const void *data, size_t length) {
    if (length > sizeof out - used) exit(1);
    memcpy(out + used, data, length);
    used += length;
}
static void byte(unsigned char value) { put(&value, 1); }
static void begin(void) { used = 4; }
static void map(int pairs) { byte(0x80 | pairs); }
static void list(int items) { byte(0x90 | items); }
static void unsigned64(uint64_t n) {
    byte(0xcf);
    for (int shift = 56; shift >= 0; shift -= 8) byte(n >> shift);
}
static void string(const char *start, size_t length) {
    byte(0xda), byte(length >> 8), byte(length);
    put(start, length);
}
static void word(const char *text) { string(text, strlen(text)); }
static void pair(const char *key, const char *text) { word(key), word(text); }
static int finish(int fd) {
    uint32_t length = used - 4;
    for (int i = 0; i < 4; i++) out[i] = length >> (24 - 8 * i);
    return write(fd, out, used) == (ssize_t)used;
}

/* --- the writer */

static int act(struct text event) { /* freeze: stop changing files; thaw and abort: go on. 0 refuses */
    printf("%.*s\n", (int)event.length, event.start);
    return fflush(stdout) == 0;
}

static int reply(int fd, uint64_t seq, struct text event, struct text instance, const char *directory) {
    int identify = is(event, "identify"), done = act(event);
    begin(), map(done ? (identify ? 3 : 2) : 5);
    pair("kind", "reply"), word("seq"), unsigned64(seq);
    if (!done) {
        word("veto"), byte(0xc3), word("code"), unsigned64(0x800423F4);
        pair("message", "the application cannot be held; look at its log");
    } else if (identify) {
        word("metadata"), map(4), pair("writer_id", WRITER_ID), pair("name", NAME);
        word("instance_id"), string(instance.start, instance.length);
        word("components"), list(1), map(3), word("type"), byte(2), pair("name", "files"), word("files"), list(1);
        map(3), pair("path", directory), pair("filespec", "*"), word("recursive"), byte(0xc3);
    }
    return finish(fd);
}

static int message(int fd, const unsigned char *body, uint32_t length, const char *directory) {
    static char kept[256];
    static struct text instance;
    struct reader in = {body, body + length};
    struct text key, text, kind = {"", 0}, event = {"", 0};
    uint64_t bytes, values, unused, n, seq = 0;
    if (!head(&in, &bytes, &values, &unused) || bytes || values % 2) return 0;
    for (; values > 0; values -= 2) {
        if (!value(&in, &key, &unused) || !value(&in, &text, &n)) return 0;
        if (is(key, "kind")) kind = text;
        if (is(key, "event")) event = text;
        if (is(key, "seq")) seq = n;
        if (is(key, "instance_id") && text.length < sizeof kept)
            memcpy(kept, text.start, text.length), instance = (struct text){kept, text.length};
    }
    if (is(kind, "refused")) return 0;
    return is(kind, "event") ? reply(fd, seq, event, instance, directory) : 1;
}

static int receive(int fd, void *data, size_t length) {
    for (char *at = data; length > 0;) {
        ssize_t got = read(fd, at, length);
        if (got <= 0) return 0;
        at += got, length -= got;
    }
    return 1;
}

static void serve(int fd, const char *directory) {
    unsigned char size[4], *body = NULL;
    uint32_t length;
    begin(), map(3), pair("kind", "hello"), pair("writer_id", WRITER_ID), pair("name", NAME);
    for (int going = finish(fd); going && receive(fd, size, 4);) {
        length = (uint32_t)size[0] << 24 | size[1] << 16 | size[2] << 8 | size[3];
        if (length > MAX_FRAME || !(body = realloc(body, length + 1)) || !receive(fd, body, length)) break;
        going = message(fd, body, length, directory);
    }
    free(body);
}

int main(int count, char **words) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (count != 3 || strlen(words[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: minimal_writer SOCKET DIRECTORY\n");
        return 1;
    }
    strcpy(address.sun_path, words[1]);
    for (;; sleep(1)) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof address)) serve(fd, words[2]);
        if (fd >= 0) close(fd);
    }
}
