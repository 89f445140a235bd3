/*
 * The C client (librabbitmq): the limit that a client can reach. It handles nothing and decodes no body.
 *
 * client [N]: when it consumes, one ack settles N messages. Without N each has an ack of its own.
 *
 * It follows the examples of the library, amqp_consumer.c and amqp_producer.c:
 * https://github.com/alanxz/rabbitmq-c/tree/v0.11.0/examples
 */

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { CHANNEL = 1, HEARTBEAT_S = 60, FRAME_BYTES = 131072 };

static amqp_connection_state_t connection;

static const char *job(const char *name) {
    const char *value = getenv(name);
    if (value == NULL) {
        fprintf(stderr, "%s is not set\n", name);
        exit(2);
    }
    return value;
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void check_status(int status, const char *what) {
    if (status != AMQP_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", what, amqp_error_string2(status));
        exit(1);
    }
}

static void check(amqp_rpc_reply_t reply, const char *what) {
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) check_status(reply.library_error, what);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

static double seconds(struct timeval at) { return at.tv_sec + at.tv_usec / 1e6; }

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

static int by_size(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

/* Write the report; with latencies their percentiles too. */
static void report(double wall_s, double cpu_s, double *late_ms, long count) {
    char unfinished[4096];
    snprintf(unfinished, sizeof unfinished, "%s.unfinished", job("BENCH_REPORT"));
    FILE *file = fopen(unfinished, "w");
    if (file == NULL) fail("the report cannot be written");
    fprintf(file, "{\"wall_s\": %.9f, \"cpu_s\": %.9f", wall_s, cpu_s);
    if (late_ms != NULL) {
        qsort(late_ms, count, sizeof *late_ms, by_size);
        for (const int *part = (const int[]){50, 95, 99, 0}; *part; part++)
            fprintf(file, ", \"p%d_ms\": %.6f", *part, late_ms[count * *part / 100]);
    }
    fprintf(file, "}\n");
    fclose(file);
    rename(unfinished, job("BENCH_REPORT"));
}

static void connect_to_broker(void) {
    struct amqp_connection_info broker;
    char *url = strdup(job("BENCH_URL"));
    check_status(amqp_parse_url(url, &broker), "the URL");
    connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection); /* it sets TCP_NODELAY */
    check_status(amqp_socket_open(socket, broker.host, broker.port), "connect");
    const char *vhost = *broker.vhost ? broker.vhost : "/";
    check(amqp_login(connection, vhost, 0, FRAME_BYTES, HEARTBEAT_S, AMQP_SASL_METHOD_PLAIN, broker.user,
                     broker.password),
          "login");
    amqp_channel_open(connection, CHANNEL);
    check(amqp_get_rpc_reply(connection), "channel.open");
}

/* The last ack is written before the report, because SIGTERM then ends the process at once. */
static void consume(long ack_each) {
    long messages = atol(job("BENCH_MESSAGES")), prefetch = atol(job("BENCH_PREFETCH"));
    double wall_s = 0, cpu_s = 0;
    if (prefetch > 0) {
        amqp_basic_qos(connection, CHANNEL, 0, prefetch, 0);
        check(amqp_get_rpc_reply(connection), "basic.qos");
        if (ack_each > prefetch / 2) ack_each = prefetch / 2;
    }
    amqp_basic_consume(connection, CHANNEL, amqp_cstring_bytes(job("BENCH_QUEUE")), amqp_empty_bytes, 0, 0, 0,
                       amqp_empty_table);
    check(amqp_get_rpc_reply(connection), "basic.consume");
    for (long count = 1;; count++) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(connection);
        check(amqp_consume_message(connection, &envelope, NULL, 0), "consume");
        if (count == 1) wall_s = now(), cpu_s = cpu();
        if (count % ack_each == 0 || count == messages)
            check_status(amqp_basic_ack(connection, CHANNEL, envelope.delivery_tag, ack_each > 1), "basic.ack");
        amqp_destroy_envelope(&envelope);
        if (count == messages) report(now() - wall_s, cpu() - cpu_s, NULL, 0);
    }
}

static long confirmed; /* the messages are confirmed up to this one, and others are marked below */
static char *is_confirmed;

/* Read one frame, for at most `patience_s` when that is not negative, and note what it confirms. */
static void read_confirm(double patience_s, long published) {
    amqp_frame_t frame;
    struct timeval patience = {(long)patience_s, (long)((patience_s - (long)patience_s) * 1e6)};
    int status = amqp_simple_wait_frame_noblock(connection, &frame, patience_s < 0 ? NULL : &patience);
    if (status == AMQP_STATUS_TIMEOUT) return;
    check_status(status, "read");
    if (frame.frame_type != AMQP_FRAME_METHOD) return;
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD) fail("a message was not confirmed");
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    if (ack->multiple)
        memset(is_confirmed + confirmed + 1, 1, ack->delivery_tag - confirmed);
    else
        is_confirmed[ack->delivery_tag] = 1;
    while (confirmed < published && is_confirmed[confirmed + 1]) confirmed++;
    amqp_maybe_release_buffers(connection);
}

static amqp_bytes_t json_body(void) {
    static const char head[] = "{\"id\":1,\"customer\":\"c-1042\",\"total\":19.9,\"note\":\"";
    long size = atol(job("BENCH_BODY_BYTES"));
    char *body = malloc(size + 1);
    memset(body, 'x', size);
    memcpy(body, head, sizeof head - 1);
    memcpy(body + size - 2, "\"}", 2);
    return (amqp_bytes_t){size, body};
}

static void publish(void) {
    long messages = atol(job("BENCH_MESSAGES")), window = atol(job("BENCH_WINDOW"));
    double rate = atof(job("BENCH_RATE"));
    amqp_bytes_t body = json_body(), queue = amqp_cstring_bytes(job("BENCH_QUEUE"));
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG,
        .content_type = amqp_cstring_bytes("application/json"),
        .delivery_mode = AMQP_DELIVERY_PERSISTENT,
    };
    double *late_ms = rate > 0 ? malloc(messages * sizeof *late_ms) : NULL;
    is_confirmed = calloc(messages + 2, 1);
    amqp_confirm_select(connection, CHANNEL);
    check(amqp_get_rpc_reply(connection), "confirm.select");

    double wall_s = now(), cpu_s = cpu();
    for (long published = 0, timed = 0; confirmed < messages;) {
        double due = rate > 0 ? wall_s + published / rate : 0, patience_s = -1, at = now();
        if (published < messages && published - confirmed < window && due <= at) {
            check_status(amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 1, 0, &properties, body),
                         "basic.publish");
            published++;
            if (rate <= 0) continue;
            patience_s = 0;
        } else if (rate > 0 && published < messages) {
            patience_s = due > at ? due - at : 0;
        }
        read_confirm(patience_s, published);
        for (; late_ms != NULL && timed < confirmed; timed++)
            late_ms[timed] = (now() - wall_s - timed / rate) * 1000;
    }
    report(now() - wall_s, cpu() - cpu_s, late_ms, messages);
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "--version") == 0) return puts(amqp_version()) < 0;
    connect_to_broker();
    if (strcmp(job("BENCH_WORK"), "publish") == 0)
        publish();
    else
        consume(count > 1 ? atol(arguments[1]) : 1);
    check(amqp_connection_close(connection, AMQP_REPLY_SUCCESS), "connection.close");
    return 0;
}
