/* One masked round as seen by an aggregator that may do anything: see README.md beside this file.
 *
 * Honest nodes 0 .. HONEST-1 follow fedvlm_secure/rounds/node_round.py; nodes HONEST .. N-1 are cloned, restored from an
 * old journal or dishonest, and are part of the adversary: they sign whatever is asked and show every share they hold.
 * The adversary schedules everything, so one process with a free choice at each step is all interleavings.
 *
 * A set of nodes is a bit mask (0 .. 2^N-1); a set of such sets is an int with bit s for set s, so N <= 5.
 * An attempt e counts over the rounds: e = round * ATTEMPTS + attempt.
 *
 * Every guard of a node can be removed with -DNO_...; nothing else changes.
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
#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif

mtype = { SIGN, REVEAL };

#define HONEST (N - BAD)
#define EVENTS (ROUNDS * ATTEMPTS)
#define SETS (1 << N)
#define MAX(x, y) ((x) > (y) -> (x) : (y))

#ifdef LOW_THRESHOLD /* breaks 2t > n + c */
#define T ((N + C) / 2)
#else
#define T ((N + C) / 2 + 1)
#endif
#define MIN_SURVIVORS MAX(T, MAX(C + 2, 3))

#define BIT(x) (1 << (x))
#define HAS(mask, x) (((mask) >> (x)) & 1)
#define SIZE(m) (HAS(m, 0) + HAS(m, 1) + HAS(m, 2) + HAS(m, 3) + HAS(m, 4))
#define HONEST_PART(m) ((m) & (BIT(HONEST) - 1))

/* The sets that hold node v, as a set of sets (written with ~ because Spin loses the sign of a constant after ->). */
#define WITH(v) (~((v) == 0 -> 1431655765 : ((v) == 1 -> 858993459 : \
                   ((v) == 2 -> 252645135 : ((v) == 3 -> 16711935 : 65535)))))

#define ROUND_OF(e) ((e) / ATTEMPTS)
#define AT(e, i) ((e) * HONEST + (i))

/* A node's journal. What a crash would lose is never here: a step commits before its message leaves. */
byte open_round[HONEST];   /* the round it takes part in: last closed round + 1 */
byte accepted[HONEST];     /* 1 + the last accepted attempt of that round; 0 before the first */
int sets_signed[EVENTS * HONEST];   /* per attempt the sets it signed; the next attempt erases them */
int sets_revealed[EVENTS * HONEST]; /* per attempt the sets it revealed for: the stored bytes, re-sent when asked */
int history[HONEST];       /* every set it signed from this model */

/* What the aggregator holds: signatures and reveals that reached it. It never forgets. */
int got_signed[EVENTS * HONEST];
int got_revealed[EVENTS * HONEST];

/* Ghosts: read by the properties alone. */
int opened[EVENTS];        /* the honest part of the sum that the aggregator can compute in this attempt; 0 for none */
bit both_share_kinds, one_hospital, two_sums, two_attempts, below_threshold, too_close, after_leaving;
#ifdef NO_ACCEPT_JOURNAL
byte last_uploaded[HONEST];
#endif

/* Holders whose shares of b_v, and of p_vj as dealt by v, the aggregator has in attempt e. Colluders add theirs. */
inline count_holders(e, want, without, into) {
    into = BAD;
    h = 0;
    do
    :: h < HONEST ->
        into = into + ((got_revealed[AT(e, h)] & (want) & ~(without)) != 0 -> 1 : 0);
        h++
    :: else -> break
    od;
    h = 0
}

/* What the aggregator can now compute in attempt e: sums over groups of honest nodes whose masks against everybody
 * outside the group, and whose own masks, are all known. */
inline look(e) {
    own_known = 0;
    v = 0;
    do
    :: v < HONEST ->
        count_holders(e, WITH(v), 0, k);
        if
        :: k >= T ->
            own_known = own_known | BIT(v);
            count_holders(e, ~WITH(v), 0, k);
            if
            :: k >= T -> both_share_kinds = 1
            :: else
            fi
        :: else
        fi;
        v++
    :: else -> break
    od;
    v = 0;
    do
    :: v < HONEST && HAS(own_known, v) ->
        group = BIT(v);
        grown = 1;
        do
        :: grown ->
            grown = 0;
            u = 0;
            do
            :: u < HONEST && HAS(group, u) ->
                w = 0;
                do
                :: w < HONEST && !HAS(group, w) ->
                    count_holders(e, WITH(u), WITH(w), k);
                    if
                    :: k < T ->
                        count_holders(e, WITH(w), WITH(u), k);
                        if
                        :: k < T ->
                            group = group | BIT(w);
                            grown = 1
                        :: else
                        fi
                    :: else
                    fi;
                    w++
                :: w < HONEST && HAS(group, w) -> w++
                :: else -> break
                od;
                u++
            :: u < HONEST && !HAS(group, u) -> u++
            :: else -> break
            od
        :: else -> break
        od;
        if
        :: (group & ~own_known) == 0 ->
            one_hospital = one_hospital | (SIZE(group) < 2);
            two_sums = two_sums | (opened[e] != 0 && opened[e] != group);
            opened[e] = group
        :: else
        fi;
        v++
    :: v < HONEST && !HAS(own_known, v) -> v++
    :: else -> break
    od;
    v = 0;
    do
    :: v < EVENTS ->
        if
        :: v != (e) && opened[v] != 0 && opened[e] != 0 ->
            two_attempts = two_attempts | (ROUND_OF(v) == ROUND_OF(e));
            too_close = too_close | (SIZE(opened[v] & ~opened[e]) == 1) | (SIZE(opened[e] & ~opened[v]) == 1)
        :: else
        fi;
        v++
    :: else -> break
    od;
    k = 0; u = 0; v = 0; w = 0; group = 0; grown = 0; own_known = 0
}

/* R0. The plan of a higher attempt of the open round, if nothing was revealed in it. Nodes check the certificate of the
 * last round: here, that t nodes closed it. */
#define CURRENT(i) (open_round[i] * ATTEMPTS + accepted[i] - 1)
#ifdef NO_ONE_REVEAL
#define REVEALED_THIS_ROUND(i) 0
#else
#define REVEALED_THIS_ROUND(i) round_revealed
#endif

#ifdef NO_ONE_SIGNATURE
#define MANY_SIGNATURES 1
#else
#define MANY_SIGNATURES 0
#endif

/* The attempts whose secrets a node still has: the accepted one alone. */
#ifdef NO_ATTEMPT_ORDER
#define LIVE(i, e) (accepted[i] > 0 && (e) <= CURRENT(i) && ROUND_OF(e) == open_round[i])
#else
#ifdef NO_CLOSE_ORDER
#define LIVE(i, e) ((accepted[i] > 0 && (e) == CURRENT(i)) || (ROUND_OF(e) < open_round[i]))
#else
#define LIVE(i, e) (accepted[i] > 0 && (e) == CURRENT(i))
#endif
#endif

inline sum_up_own(i, r) {
    round_revealed = 0;
    x = 0;
    do
    :: x < ATTEMPTS ->
        round_revealed = round_revealed | (sets_revealed[AT((r) * ATTEMPTS + x, i)] != 0);
        x++
    :: else -> break
    od;
    x = 0
}

#ifdef NO_MIN_SURVIVORS
#define LARGE_ENOUGH(x) 1
#else
#define LARGE_ENOUGH(x) (SIZE(x) >= MIN_SURVIVORS)
#endif
#define TO_REVEAL (sets_signed[AT(e, i)] & ~sets_revealed[AT(e, i)])
#define ALLOWED(x) (wish == SIGN -> LARGE_ENOUGH(x) && !HAS(sets_signed[AT(e, i)], x) : HAS(TO_REVEAL, x))

/* R2. May node i sign set s? Of the history rule its pairwise half is here; history.pml is about the rest, which for
 * n <= 4, and for n = 5 with c = 1, forbids nothing more. */
inline check_set(i, s) {
    fine = LARGE_ENOUGH(s);
#ifndef NO_HISTORY
    x = 1;
    do
    :: x < SETS ->
        if
        :: HAS(history[i], x) ->
            fine = fine && (SIZE(x & ~(s)) == 0 || SIZE(x & ~(s)) >= C + 2);
            fine = fine && (SIZE((s) & ~x) == 0 || SIZE((s) & ~x) >= C + 2);
        :: else
        fi;
        x++
    :: else -> break
    od;
    x = 0
#endif
}

/* R3. How many signers the request shows, by the node's own count, and how many there are in truth. */
inline count_signers(e, s) {
    k = BAD;
    truth = BAD;
    h = 0;
    do
    :: h < HONEST ->
        truth = truth + HAS(got_signed[AT(e, h)], s);
#ifdef NO_OWN_DIGEST
        k = k + (got_signed[AT(e, h)] != 0 -> 1 : 0);
#else
#ifdef NO_CONTEXT
        x = 0;
        u = 0;
        do
        :: x < EVENTS ->
            u = u | HAS(got_signed[AT(x, h)], s);
            x++
        :: else -> break
        od;
        k = k + u;
        x = 0;
        u = 0;
#else
#ifdef NO_DISTINCT_SIGNERS
        k = k + T * HAS(got_signed[AT(e, h)], s);
#else
        k = k + HAS(got_signed[AT(e, h)], s);
#endif
#endif
#endif
        h++
    :: else -> break
    od;
    h = 0
}

/* Whether the message that follows a commit leaves: a crash in between keeps it back until it is asked for again. */
inline may_crash_before_sending() {
#ifdef CRASHES
    if
    :: sent = 1
    :: sent = 0
    fi
#else
    sent = 1
#endif
}

/* Whether a step is on disk when its message leaves; only in variants that commit too late. */
inline may_forget() {
    if
    :: kept = 1
    :: kept = 0
    fi
}

inline tell_crash() {
    if
    :: kept && sent -> printf("\n")
    :: kept && !sent -> printf(", and crashes before the message leaves\n")
    :: else -> printf(", and crashes before the commit\n")
    fi
}

inline choose_node() {
    i = 0;
    do
    :: i < HONEST - 1 -> i++
    :: break
    od
}

inline choose_attempt() {
    e = 0;
    do
    :: e < EVENTS - 1 -> e++
    :: break
    od
}

/* A free choice among the sets for which ALLOWED holds; where there is none, nothing is asked. */
#define OFFER(x) :: (x) < SETS && ALLOWED(x) -> s = x
inline choose_set() {
    if
    OFFER(1) OFFER(2) OFFER(3) OFFER(4) OFFER(5) OFFER(6) OFFER(7) OFFER(8) OFFER(9) OFFER(10) OFFER(11)
    OFFER(12) OFFER(13) OFFER(14) OFFER(15) OFFER(16) OFFER(17) OFFER(18) OFFER(19) OFFER(20) OFFER(21)
    OFFER(22) OFFER(23) OFFER(24) OFFER(25) OFFER(26) OFFER(27) OFFER(28) OFFER(29) OFFER(30) OFFER(31)
    :: else -> goto again
    fi
}

/* The attempt asked about: where a node has one live attempt, asking about others is refused and changes nothing. */
#if defined(NO_ATTEMPT_ORDER) || defined(NO_CLOSE_ORDER)
#define ASK_ABOUT choose_attempt()
#else
#define ASK_ABOUT e = CURRENT(i)
#endif

active proctype aggregator() {
    byte i, e, s, h, u, v, w, x;
    short k, truth;
    mtype wish;
    byte own_known, group;
    bit grown, fine, sent, kept, remembered, round_revealed;
again:
    atomic {
        i = 0; e = 0; s = 0; wish = 0; k = 0; truth = 0; fine = 0; sent = 0; kept = 0; round_revealed = 0;
        assert(!both_share_kinds);
        assert(!one_hospital);
        assert(!two_sums);
        assert(!two_attempts);
        assert(!too_close);
        assert(!below_threshold);
        assert(!after_leaving);
        choose_node();
        if
        :: accepted[i] < ATTEMPTS && open_round[i] < ROUNDS -> /* R0: plan */
            d_step {
                sum_up_own(i, open_round[i]);
                fine = !(REVEALED_THIS_ROUND(i));
#ifndef NO_CERTIFICATE
                k = BAD;
                h = 0;
                do
                :: h < HONEST -> k = k + (open_round[h] >= open_round[i] -> 1 : 0); h++
                :: else -> break
                od;
                h = 0;
                fine = fine && (k >= T)
#endif
            };
            if
            :: fine -> goto plan
            :: else -> goto again
            fi
        :: accepted[i] > 0 ->
            ASK_ABOUT;
            if
            :: LIVE(i, e) && (MANY_SIGNATURES || sets_signed[AT(e, i)] == 0) ->
                wish = SIGN; choose_set(); goto sign
            :: LIVE(i, e) && TO_REVEAL != 0 ->
                wish = REVEAL; choose_set(); goto reveal
            :: else -> goto again
            fi
#ifdef CRASHES
        :: choose_attempt(); goto resend
#else
        :: else -> goto again
#endif
        :: open_round[i] < ROUNDS - 1 -> goto close
        fi
    };
plan:
    atomic {
#ifdef NO_ACCEPT_JOURNAL
        may_forget();
#else
        kept = 1;
#endif
        d_step {
#ifdef NO_ACCEPT_JOURNAL
            last_uploaded[i] = MAX(last_uploaded[i], CURRENT(i) + 2);
#endif
            if
            :: kept ->
#ifndef NO_ATTEMPT_ORDER
                if
                :: accepted[i] > 0 -> sets_signed[AT(CURRENT(i), i)] = 0
                :: else
                fi;
#endif
                accepted[i] = accepted[i] + 1
            :: else
            fi
        };
        if
        :: kept -> printf("<%d> accepts round %d attempt %d\n", i, open_round[i], accepted[i] - 1)
        :: else -> printf("<%d> uploads for the next attempt and crashes before it is journalled\n", i)
        fi;
        goto again
    };
sign:
    atomic {
        d_step {
            check_set(i, s);
            sum_up_own(i, ROUND_OF(e));
            fine = fine && !(REVEALED_THIS_ROUND(i));
            fine = fine && (MANY_SIGNATURES || sets_signed[AT(e, i)] == 0)
        };
        if
        :: fine
        :: else -> goto again
        fi;
#ifdef NO_SIGN_JOURNAL
        may_forget();
#else
        kept = 1;
#endif
#ifdef HISTORY_APART
        if
        :: remembered = 1
        :: remembered = 0 /* a crash between the two commits */
        fi;
#else
        remembered = 1;
#endif
        may_crash_before_sending();
        d_step {
            if
            :: kept ->
                sets_signed[AT(e, i)] = sets_signed[AT(e, i)] | BIT(s);
                history[i] = history[i] | (remembered -> BIT(s) : 0)
            :: else
            fi;
            remembered = 0;
            if
            :: sent -> got_signed[AT(e, i)] = got_signed[AT(e, i)] | BIT(s)
            :: else
            fi
        };
        printf("<%d> signs {%d} in round %d attempt %d", i, s, ROUND_OF(e), e % ATTEMPTS);
        tell_crash();
        goto again
    };
reveal:
    atomic {
        d_step {
            count_signers(e, s);
            sum_up_own(i, ROUND_OF(e));
            fine = !(REVEALED_THIS_ROUND(i));
#ifndef NO_QUORUM
            fine = fine && (k >= T);
#endif
        };
        if
        :: fine
        :: else -> goto again
        fi;
#ifdef NO_REVEAL_JOURNAL
        may_forget();
#else
        kept = 1;
#endif
        may_crash_before_sending();
        d_step {
            below_threshold = (truth < T);
#ifdef NO_ACCEPT_JOURNAL
            after_leaving = (e + 1 < last_uploaded[i]);
#else
            after_leaving = (accepted[i] == 0 || e != CURRENT(i));
#endif
            if
            :: kept -> sets_revealed[AT(e, i)] = sets_revealed[AT(e, i)] | BIT(s)
            :: else
            fi;
            if
            :: sent -> got_revealed[AT(e, i)] = got_revealed[AT(e, i)] | BIT(s); look(e)
            :: else
            fi
        };
        printf("<%d> reveals for {%d} in round %d attempt %d", i, s, ROUND_OF(e), e % ATTEMPTS);
        tell_crash();
        printf("  the aggregator can open {%d} of the honest nodes' updates\n", opened[e]);
        goto again
    };
resend: /* stored bytes answer a repeated request: nothing new is made */
    atomic {
        d_step {
            if
            :: (sets_signed[AT(e, i)] & ~got_signed[AT(e, i)]) || (sets_revealed[AT(e, i)] & ~got_revealed[AT(e, i)]) ->
                printf("<%d> sends its stored messages of round %d attempt %d again\n", i, ROUND_OF(e), e % ATTEMPTS);
                got_signed[AT(e, i)] = got_signed[AT(e, i)] | sets_signed[AT(e, i)];
                got_revealed[AT(e, i)] = got_revealed[AT(e, i)] | sets_revealed[AT(e, i)];
                look(e)
            :: else
            fi
        };
        goto again
    };
close: /* the aggregator asks for a void closing, which a node never refuses: the model stays */
    atomic {
        d_step {
#ifndef NO_CLOSE_ORDER
            x = 0;
            do
            :: x < ATTEMPTS ->
                sets_signed[AT(open_round[i] * ATTEMPTS + x, i)] = 0;
                sets_revealed[AT(open_round[i] * ATTEMPTS + x, i)] = 0;
                x++
            :: else -> break
            od;
            x = 0;
#endif
            open_round[i] = open_round[i] + 1;
            accepted[i] = 0
        };
        printf("<%d> closes round %d void\n", i, open_round[i] - 1);
        goto again
    }
}
