/* How one round is closed: by a result or void, never both, never two results. See README.md beside this file.
 *
 * The aggregator may publish any result, to each node another (a node replays the step, which shows that the model
 * follows from the sum, not that the sum is true), and may ask for a void closing at any time. Honest nodes
 * (0 .. N-BAD-1) follow _result, _void and _catch_up of fedvlm_secure/rounds/node_run.py; the others sign anything.
 */

#ifndef N
#define N 4
#endif
#ifndef C
#define C 1
#endif
#ifndef BAD
#define BAD C
#endif

#define HONEST (N - BAD)
#ifdef LOW_THRESHOLD
#define T ((N + C) / 2)
#else
#define T ((N + C) / 2 + 1)
#endif
#define BIT(x) (1 << (x))
#define HAS(mask, x) (((mask) >> (x)) & 1)
#define SIZE(m) (HAS(m, 0) + HAS(m, 1) + HAS(m, 2) + HAS(m, 3) + HAS(m, 4) + HAS(m, 5) + HAS(m, 6) + HAS(m, 7))

/* Closings: 0 none yet, 1 void, 2 one result, 3 another result. */
#define CLOSINGS 4
byte closed[HONEST];      /* journal */
byte acknowledged[HONEST]; /* journal: the closing whose acknowledgement is stored, re-sent when asked */
byte next_plan[HONEST];   /* journal: the closing on which it accepted the next round's plan */
byte got[CLOSINGS];       /* per closing the nodes whose acknowledgement the aggregator holds */
bit two_certificates, two_models;

#define CERTIFIED(x) (SIZE(got[x]) + BAD >= T)
#ifdef NO_CERTIFICATE
#define SHOWN(x) 1
#else
#define SHOWN(x) CERTIFIED(x)
#endif
#ifdef NO_ONE_CLOSING
#define STILL_OPEN(i) 1
#else
#define STILL_OPEN(i) (closed[i] == 0)
#endif

active proctype aggregator() {
    byte i, j, closing;
    bit kept, sent;
again:
    atomic {
        i = 0; closing = 0; kept = 1; sent = 1;
        assert(!two_certificates);
        assert(!two_models);
        do
        :: i < HONEST - 1 -> i++
        :: break
        od;
        closing = 1;
        do
        :: closing < CLOSINGS - 1 -> closing++
        :: break
        od;
        if
        :: STILL_OPEN(i) -> goto close
        :: closed[i] == 0 && SHOWN(closing) ->
            closed[i] = closing; /* catch-up: takes over, signs nothing */
            printf("<%d> takes over closing %d from its certificate\n", i, closing);
            goto again
        :: closed[i] != 0 && acknowledged[i] != 0 && !HAS(got[acknowledged[i]], i) -> /* stored bytes, asked again */
            closing = acknowledged[i];
            goto hold
        :: closed[i] == closing && next_plan[i] == 0 && SHOWN(closing) -> goto plan
        :: else -> goto again
        fi
    };
close:
    atomic {
#ifdef NO_CLOSE_JOURNAL
        if
        :: kept = 1
        :: kept = 0 /* a crash before the commit: the acknowledgement has left, the node does not know of it */
        fi;
#endif
        if
        :: sent = 1
        :: sent = 0 /* a crash after the commit */
        fi;
        if
        :: kept -> closed[i] = closing; acknowledged[i] = closing
        :: else
        fi;
        printf("<%d> acknowledges closing %d; committed %d, sent %d\n", i, closing, kept, sent);
        if
        :: sent -> goto hold
        :: else -> goto again
        fi
    };
hold:
    atomic {
        d_step {
            got[closing] = got[closing] | BIT(i);
            j = 1;
            do
            :: j < CLOSINGS ->
                two_certificates = two_certificates | (j != closing && CERTIFIED(j) && CERTIFIED(closing));
                j++
            :: else -> break
            od;
            j = 0
        };
        goto again
    };
plan:
    atomic {
        d_step {
            next_plan[i] = closing;
            printf("<%d> goes on from closing %d\n", i, closing);
            j = 0;
            do
            :: j < HONEST ->
                two_models = two_models | (next_plan[j] != 0 && next_plan[j] != closing);
                j++
            :: else -> break
            od;
            j = 0
        };
        goto again
    }
}
