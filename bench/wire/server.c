/* A server that is nothing but the wire: see __init__.py, and replies.py for the records on the standard input.
 *
 *     server DELIVERIES QUEUE
 *
 * It prints its port, serves until its standard input ends, and prints how many deliveries were sent and settled, and
 * how many messages were published. It trusts its clients: this is a tool for benchmarks on the loopback interface.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { METHOD = 1, HEADER = 2, BODY = 3, HEARTBEAT = 8 };
enum { CLIENTS = 60, CHANNELS = 256, RECORDS = 64, TAGS = 65536 };
enum { CONFIRM_EACH = 100, OUT_BYTES = 256 * 1024, READ_BYTES = 256 * 1024 };

#define KEY(class_id, method_id) ((uint32_t)(class_id) << 16 | (method_id))
static const uint32_t CONTENT_HEADER = KEY(60, 0), CONTENT_BODY = KEY(60, 1), END = 0xFFFFFFFF;

struct bytes {
    uint8_t *at;
    size_t size, capacity;
};

struct record {
    uint32_t key;
    struct bytes answer;
};

struct channel {
    struct bytes delivery; /* the frames of a delivery; empty without a consumer */
    size_t tag_offset;
    uint64_t prefetch, last_tag, first_open, unsettled; /* first_open: no tag below it is unsettled */
    uint8_t settled[TAGS];                              /* by the low bits of a tag that is first_open or higher */
    uint64_t body_left, published, confirmed;
};

struct client {
    bool greeted;
    struct bytes in, out;
    struct channel *channels[CHANNELS];
};

static struct record records[RECORDS];
static int record_count;
static const char *queue;
static uint64_t left, delivered, settled, published;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint32_t u32(const uint8_t *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

static uint64_t u64(const uint8_t *at) { return (uint64_t)u32(at) << 32 | u32(at + 4); }

static void put_u64(uint8_t *at, uint64_t value) {
    value = htobe64(value);
    memcpy(at, &value, 8);
}

static uint8_t *grow(struct bytes *bytes, size_t more) {
    if (bytes->size + more > bytes->capacity) {
        bytes->capacity = 2 * (bytes->size + more);
        bytes->at = realloc(bytes->at, bytes->capacity);
        if (!bytes->at) fail("realloc");
    }
    bytes->size += more;
    return bytes->at + bytes->size - more;
}

static void add(struct bytes *bytes, const void *data, size_t size) { memcpy(grow(bytes, size), data, size); }

static void add_frame(struct bytes *out, int kind, int channel, const void *payload, uint32_t size) {
    uint8_t *at = grow(out, size + 8);
    uint8_t head[7] = {kind, channel >> 8, channel, size >> 24, size >> 16, size >> 8, size};
    memcpy(at, head, 7);
    memcpy(at + 7, payload, size);
    at[7 + size] = 0xCE;
}

static const struct bytes *answer_to(uint32_t key) {
    for (int i = 0; i < record_count; i++)
        if (records[i].key == key) return &records[i].answer;
    return NULL;
}

static void read_fully(void *into, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t got = read(0, (uint8_t *)into + done, size - done);
        if (got <= 0) fail("the records ended early");
        done += got;
    }
}

static void read_records(void) {
    uint8_t head[8];
    read_fully(head, 8); /* the size of all records */
    for (;;) {
        read_fully(head, 8);
        if (u32(head) == END) return;
        if (record_count == RECORDS) fail("too many records");
        struct record *record = &records[record_count++];
        record->key = u32(head);
        read_fully(grow(&record->answer, u32(head + 4)), u32(head + 4));
    }
}

static void confirm(struct client *client, int number) {
    struct channel *channel = client->channels[number];
    if (channel->published == channel->confirmed) return;
    uint8_t ack[13] = {0, 60, 0, 80, [12] = 1};
    put_u64(ack + 4, channel->published);
    add_frame(&client->out, METHOD, number, ack, sizeof ack);
    channel->confirmed = channel->published;
}

static void on_content(struct client *client, int number, uint32_t size) {
    struct channel *channel = client->channels[number];
    channel->body_left -= size;
    if (channel->body_left) return;
    published++;
    if (++channel->published - channel->confirmed == CONFIRM_EACH) confirm(client, number);
}

static void settle_one(struct channel *channel, uint64_t tag) {
    uint8_t *mark = &channel->settled[tag % TAGS];
    if (tag < channel->first_open || tag > channel->last_tag || *mark) return;
    *mark = 1;
    channel->unsettled--;
    settled++;
}

static void on_settled(struct channel *channel, uint64_t tag, bool multiple) {
    for (uint64_t each = multiple ? channel->first_open : tag; each <= tag; each++) settle_one(channel, each);
    while (channel->first_open <= channel->last_tag && channel->settled[channel->first_open % TAGS])
        channel->settled[channel->first_open++ % TAGS] = 0;
}

static void on_consume(struct client *client, int number, const uint8_t *payload) {
    struct channel *channel = client->channels[number];
    const uint8_t *tag = payload + 3 + payload[2];
    if (!*tag) tag = (const uint8_t *)"\4wire";
    struct bytes method = {0};
    add(&method, "\0\74\0\25", 4);
    add(&method, tag, *tag + 1);
    add_frame(&client->out, METHOD, number, method.at, method.size);

    method.at[3] = 60; /* consume-ok and deliver both begin with the consumer tag */
    uint8_t queue_size = strlen(queue);
    channel->tag_offset = 7 + method.size;
    memset(grow(&method, 10), 0, 10); /* delivery tag, redelivered, exchange */
    add(&method, &queue_size, 1);
    add(&method, queue, queue_size);
    const struct bytes *header = answer_to(CONTENT_HEADER), *body = answer_to(CONTENT_BODY);
    channel->delivery.size = 0;
    add_frame(&channel->delivery, METHOD, number, method.at, method.size);
    add_frame(&channel->delivery, HEADER, number, header->at, header->size);
    add_frame(&channel->delivery, BODY, number, body->at, body->size);
    free(method.at);
}

static void on_cancel(struct client *client, int number, const uint8_t *payload) {
    uint8_t method[4 + 256] = {0, 60, 0, 31};
    memcpy(method + 4, payload, *payload + 1);
    client->channels[number]->delivery.size = 0;
    add_frame(&client->out, METHOD, number, method, 4 + *payload + 1);
}

static void close_channel(struct client *client, int number) {
    if (!client->channels[number]) return;
    free(client->channels[number]->delivery.at);
    free(client->channels[number]);
    client->channels[number] = NULL;
}

static void on_method(struct client *client, int number, const uint8_t *method) {
    struct channel *channel = client->channels[number];
    const uint8_t *payload = method + 4;
    const struct bytes *answer;
    switch (u32(method)) {
    case KEY(60, 80):  /* ack */
    case KEY(60, 120): /* nack */
        on_settled(channel, u64(payload), payload[8] & 1);
        return;
    case KEY(60, 90): /* reject */
        on_settled(channel, u64(payload), false);
        return;
    case KEY(60, 20):
        on_consume(client, number, payload);
        return;
    case KEY(60, 30):
        on_cancel(client, number, payload);
        return;
    case KEY(60, 10): /* qos */
        channel->prefetch = payload[4] << 8 | payload[5];
        if (!channel->prefetch) channel->prefetch = TAGS - 1;
    }
    answer = answer_to(u32(method));
    if (answer) add_frame(&client->out, METHOD, number, answer->at, answer->size);
    if (u32(method) == KEY(20, 40)) close_channel(client, number);
}

static void on_frame(struct client *client, int kind, int number, const uint8_t *payload, uint32_t size) {
    if (number >= CHANNELS) fail("a channel above the maximum");
    if (!client->channels[number]) {
        struct channel *channel = client->channels[number] = calloc(1, sizeof *channel);
        if (!channel) fail("calloc");
        channel->prefetch = TAGS - 1;
        channel->first_open = 1;
    }
    if (kind == METHOD) {
        on_method(client, number, payload);
    } else if (kind == HEADER) {
        client->channels[number]->body_left = u64(payload + 4);
        on_content(client, number, 0);
    } else if (kind == BODY) {
        on_content(client, number, size);
    } else if (kind == HEARTBEAT) {
        add_frame(&client->out, HEARTBEAT, 0, "", 0);
    }
}

static void parse(struct client *client) {
    const uint8_t *at = client->in.at, *end = at + client->in.size;
    if (!client->greeted && end - at >= 8) {
        const struct bytes *start = answer_to(KEY(0, 0));
        add_frame(&client->out, METHOD, 0, start->at, start->size);
        client->greeted = true;
        at += 8;
    }
    while (client->greeted && end - at >= 8) {
        uint32_t size = u32(at + 3);
        if ((size_t)(end - at) < (size_t)size + 8) break;
        on_frame(client, at[0], at[1] << 8 | at[2], at + 7, size);
        at += size + 8;
    }
    memmove(client->in.at, at, end - at);
    client->in.size = end - at;
    for (int number = 0; number < CHANNELS; number++)
        if (client->channels[number]) confirm(client, number);
}

static void deliver(struct client *client) {
    for (int number = 1; number < CHANNELS; number++) {
        struct channel *channel = client->channels[number];
        if (!channel || !channel->delivery.size) continue;
        while (left && channel->unsettled < channel->prefetch && client->out.size < OUT_BYTES &&
               channel->last_tag + 1 - channel->first_open < TAGS) {
            uint8_t *at = grow(&client->out, channel->delivery.size);
            memcpy(at, channel->delivery.at, channel->delivery.size);
            put_u64(at + channel->tag_offset, ++channel->last_tag);
            channel->unsettled++;
            delivered++;
            left--;
        }
    }
}

/* Read, answer and write once; false when the client has gone. */
static bool turn(struct client *client, int fd, short events) {
    if (events & ~POLLOUT) {
        ssize_t got = read(fd, grow(&client->in, READ_BYTES), READ_BYTES);
        client->in.size -= READ_BYTES - (got > 0 ? got : 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
        if (got > 0) parse(client);
    }
    deliver(client);
    if (client->out.size) {
        ssize_t sent = send(fd, client->out.at, client->out.size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) return errno == EAGAIN;
        memmove(client->out.at, client->out.at + sent, client->out.size - sent);
        client->out.size -= sent;
    }
    return true;
}

static int listen_on_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, CLIENTS)) fail("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &size)) fail("getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void serve(int listening) {
    static struct pollfd polled[2 + CLIENTS];
    static struct client *clients[2 + CLIENTS];
    int count = 2;
    polled[0] = (struct pollfd){.fd = 0, .events = 0}; /* POLLHUP is always reported */
    polled[1] = (struct pollfd){.fd = listening, .events = POLLIN};
    while (poll(polled, count, -1) >= 0 || errno == EINTR) {
        if (polled[0].revents) return;
        for (int i = 2; i < count; i++) {
            if (polled[i].revents && !turn(clients[i], polled[i].fd, polled[i].revents)) {
                close(polled[i].fd);
                for (int number = 0; number < CHANNELS; number++) close_channel(clients[i], number);
                free(clients[i]->in.at);
                free(clients[i]->out.at);
                free(clients[i]);
                count--;
                polled[i] = polled[count];
                clients[i] = clients[count];
                i--;
                continue;
            }
            polled[i].events = POLLIN | (clients[i]->out.size ? POLLOUT : 0);
        }
        if (polled[1].revents && count < 2 + CLIENTS) {
            int on = 1, fd = accept(listening, NULL, NULL);
            if (fd < 0) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            polled[count] = (struct pollfd){.fd = fd, .events = POLLIN};
            clients[count] = calloc(1, sizeof **clients);
            if (!clients[count++]) fail("calloc");
        }
    }
    fail("poll");
}

int main(int count, char **arguments) {
    if (count != 3) {
        fputs("usage: server DELIVERIES QUEUE\n", stderr);
        return 2;
    }
    left = strtoull(arguments[1], NULL, 10);
    queue = arguments[2];
    read_records();
    serve(listen_on_loopback());
    printf("%llu %llu %llu\n", (unsigned long long)delivered, (unsigned long long)settled,
           (unsigned long long)published);
    return 0;
}
