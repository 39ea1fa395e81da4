/* relay.c: a switch whose links have a delay, for a kernel that has no netem.

   networks.py compiles it and runs it as `relay DELAY_NS BITS_PER_SECOND QUEUE_BYTES FD...`. Each
   FD is a TAP device in a namespace of its own: what that node sends is read from it, and what is
   written to it the node receives. A frame read at time t is written to the port of its
   destination at

       max(t + delay, the end of the frame before it on that port)

   and occupies that port for its bits / BITS_PER_SECOND (0: for no time). So several nodes that
   send to one share its link. A frame that would wait for more than QUEUE_BYTES is dropped, as a
   switch does whose buffer is full. What a node sends is limited by a qdisc in its namespace.

   TAP devices hand over TCP data as the sender's stack does to a network card: in frames of up to
   64 KB with a header (struct virtio_net_hdr) that says how to cut them up. They are passed on
   whole, so a frame costs the same work whatever its length.

   Port i, counted from 0, has a MAC address whose last byte is i + 1. The relay ends when its
   input is closed, which is when networks.py ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
#include <linux/virtio_net.h>

enum {
    MAX_PORTS = 64,
    HEADER = 10,       /* of a frame that a TAP device hands over */
    ETHERNET = 14,     /* the header of each frame */
    MAX_FRAME = 70000, /* 64 KB and the headers */
    MAX_LATE = 25000,  /* ns by which a wait ends early, because it would end late */
    SOON = 20000,      /* ns by which a frame may be early: to poll for so long costs too much */
    TURN = 16          /* frames that are read from a port before the others have their turn */
};
_Static_assert(sizeof(struct virtio_net_hdr) == HEADER, "TAP devices use the short header");

typedef struct frame {
    struct frame *next;
    int64_t due; /* when it is written, ns */
    size_t size;
    unsigned char data[];
} frame;

typedef struct {
    int fd;
    frame *first, **end; /* the frames that wait, in the order of their due times */
    int64_t idle_from;   /* when the link has carried all that was sent so far, ns */
} port;

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Returns the bytes on the wire of a frame: each part it is cut into has the headers again. */
static int64_t wire_bytes(const unsigned char *data, size_t size) {
    struct virtio_net_hdr h;
    memcpy(&h, data, HEADER);
    const int64_t length = (int64_t)size - HEADER;
    if (h.gso_type == VIRTIO_NET_HDR_GSO_NONE || h.gso_size == 0 || h.csum_start + 13 > length)
        return length;
    const int64_t headers = h.csum_start + 4 * (data[HEADER + h.csum_start + 12] >> 4);
    const int64_t parts = (length - headers + h.gso_size - 1) / h.gso_size;
    return parts > 1 ? length + (parts - 1) * headers : length;
}

/* Puts a frame that was read at time t into the queue of a port, or drops it. */
static void enqueue(port *p, const unsigned char *data, size_t size, int64_t t, double rate,
                    double queue) {
    int64_t due = t;
    if (rate > 0 && p->idle_from > t) {
        due = p->idle_from;
        if ((double)(due - t) * 1e-9 * rate > 8 * queue) return;
    }
    frame *f = malloc(sizeof(frame) + size);
    if (!f) return;
    f->next = NULL;
    f->due = due;
    f->size = size;
    memcpy(f->data, data, size);
    if (rate > 0)
        p->idle_from = due + (int64_t)(8e9 * (double)wire_bytes(data, size) / rate);
    *p->end = f;
    p->end = &f->next;
}

/* Writes the frames that are due; returns when the next one is, or INT64_MAX. */
static int64_t deliver(port *p) {
    while (p->first) {
        frame *f = p->first;
        if (f->due > now() + SOON) return f->due;
        /* the frame is lost if the device is down, as on a cable that is not plugged in */
        if (write(p->fd, f->data, f->size) < 0 && errno == EINTR) continue;
        p->first = f->next;
        if (!p->first) p->end = &p->first;
        free(f);
    }
    return INT64_MAX;
}

int main(int argc, char **argv) {
    static port ports[MAX_PORTS];
    static unsigned char data[MAX_FRAME];
    struct pollfd polled[MAX_PORTS + 1] = {{.fd = 0, .events = POLLIN}};
    const int n = argc - 4;
    if (n < 1 || n > MAX_PORTS) {
        fprintf(stderr, "relay: usage: relay DELAY_NS BITS_PER_SECOND QUEUE_BYTES FD...\n");
        return 2;
    }
    const int64_t delay = atoll(argv[1]);
    const double rate = atof(argv[2]), queue = atof(argv[3]);
    for (int i = 0; i < n; i++) {
        ports[i] = (port){.fd = atoi(argv[4 + i]), .end = &ports[i].first};
        polled[i + 1] = (struct pollfd){.fd = ports[i].fd, .events = POLLIN};
    }
    /* Ranks that wait for a message keep every core busy. The relay goes before them, as a switch
       does that has a processor of its own; where that is not allowed, it takes its turn. */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
    prctl(PR_SET_TIMERSLACK, 1UL); /* ns; by default a wait may end 50 us late */
    int64_t late = 0; /* how late a wait ends, ns: the mean of the last ones */
    for (;;) {
        int64_t next = INT64_MAX;
        for (int i = 0; i < n; i++) {
            const int64_t due = deliver(&ports[i]);
            if (due < next) next = due;
        }
        /* A wait ends early by as much as the last ones ended late. A relay that polled instead
           would take a core, and Linux stops such a process of SCHED_FIFO for 50 ms a second. */
        const int64_t start = now(), rest = max64(0, next - late - start);
        const struct timespec wait = {rest / 1000000000, rest % 1000000000};
        if (ppoll(polled, (nfds_t)n + 1, next == INT64_MAX ? NULL : &wait, NULL) <= 0) {
            if (rest > 0) late += (min64(now() - start - rest, MAX_LATE) - late) / 16;
            continue;
        }
        if (polled[0].revents) return 0;
        for (int i = 0; i < n; i++) {
            if (polled[i + 1].revents & (POLLERR | POLLHUP | POLLNVAL)) return 1;
            if (!(polled[i + 1].revents & POLLIN)) continue;
            for (int k = 0; k < TURN; k++) {
                const ssize_t size = read(ports[i].fd, data, sizeof data);
                if (size < HEADER + ETHERNET) break; /* most often EAGAIN */
                const unsigned char *mac = data + HEADER;
                const int64_t t = now() + delay;
                for (int to = 0; to < n; to++)
                    if (to != i && (mac[0] & 1 || mac[5] == to + 1))
                        enqueue(&ports[to], data, (size_t)size, t, rate, queue);
            }
        }
    }
}
