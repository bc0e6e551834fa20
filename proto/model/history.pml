/* Sums opened from one and the same model: what linear combinations of them show. See README.md beside this file.
 *
 * A void closing leaves the model as it is and a node never refuses one, so a lying aggregator can open a sum, void the
 * round and open another, and so on. round.pml shows that a round opens one sum at most, over at least t signers; here
 * one step is one such sum. The aggregator chooses its members and its signers. Honest nodes (0 .. N-BAD-1) sign by
 * their survivor history (fedvlm_secure/rounds/history.py); the others sign anything.
 *
 * With -DCHOSEN_COHORTS each sum may be of another run, whose cohort the aggregator picks among the N hospitals of the
 * roster (at least MIN_NODES of them).
 */

#ifndef N
#define N 5
#endif
#ifndef C
#define C 0
#endif
#ifndef BAD
#define BAD C
#endif
#ifndef SUMS
#define SUMS 3
#endif
#ifndef MIN_NODES
#define MIN_NODES N
#endif

#define HONEST (N - BAD)
#define EVERYBODY ((1 << N) - 1)
#define MAX(x, y) ((x) > (y) -> (x) : (y))
#define BIT(x) (1 << (x))
#define HAS(mask, x) (((mask) >> (x)) & 1)
#define SIZE(m) (HAS(m, 0) + HAS(m, 1) + HAS(m, 2) + HAS(m, 3) + HAS(m, 4) + HAS(m, 5) + HAS(m, 6) + HAS(m, 7))
#define THRESHOLD(cohort) ((SIZE(cohort) + C) / 2 + 1)
#define SMALLEST(cohort) MAX(THRESHOLD(cohort), MAX(C + 2, 3))

byte cohort[SUMS];
byte members[SUMS];
byte signers[SUMS];
byte sums;
bit one_hospital;

/* Does node i, by what it signed before, sign these members next? */
inline check_history(i) {
    fine = 1;
#ifndef NO_HISTORY
    k = 0;
    do
    :: k < sums ->
        if
        :: HAS(signers[k], i) ->
            fewer = members[k] & ~chosen;
            more = chosen & ~members[k];
            fine = fine && (fewer == 0 || SIZE(fewer) >= C + 2) && (more == 0 || SIZE(more) >= C + 2);
#ifndef NO_NESTING
            fine = fine && (fewer == 0 || more == 0);
#endif
        :: else
        fi;
        k++
    :: else -> break
    od;
    k = 0; fewer = 0; more = 0
#endif
}

#ifndef NO_ROSTER_OVERLAP
#define COMPATIBLE(one, other) (THRESHOLD(one) + THRESHOLD(other) > SIZE((one) | (other)) + C)
#else
#define COMPATIBLE(one, other) 1
#endif

/* A node that uploads for both cohorts lets the second have its update only if their signers must share an honest node.
 * The members of both sums upload in both; nobody else can be told apart from what they refuse. */
inline check_cohort() {
    k = 0;
    do
    :: k < sums ->
        fine = fine && (COMPATIBLE(cohort[k], asked) || (members[k] & chosen & (BIT(HONEST) - 1)) == 0);
        k++
    :: else -> break
    od;
    k = 0
}

/* Over all combinations with weights -1, 0 and 1 of the opened sums: does one hold a single honest hospital? Weights
 * count in base 3, sum 0 first. */
inline look() {
    combination = 1;
    do
    :: combination < (sums == 1 -> 3 : (sums == 2 -> 9 : (sums == 3 -> 27 : 81))) ->
        alone = 0;
        i = 0;
        do
        :: i < HONEST ->
            k = 0;
            weight = 0;
            rest = combination;
            do
            :: k < sums ->
                weight = weight + ((rest % 3) - 1) * HAS(members[k], i);
                rest = rest / 3;
                k++
            :: else -> break
            od;
            alone = alone + (weight != 0 -> 1 : 0);
            i++
        :: else -> break
        od;
        one_hospital = one_hospital | (alone == 1);
        combination++
    :: else -> break
    od;
    combination = 0; i = 0; k = 0; weight = 0; rest = 0; alone = 0
}

active proctype aggregator() {
    byte asked, chosen, willing, i, k, fewer, more, alone, combination, rest;
    short weight;
    bit fine;
again:
    atomic {
        assert(!one_hospital);
        if
        :: sums < SUMS
        :: else -> goto done
        fi;
#ifdef CHOSEN_COHORTS
        asked = 0;
        i = 0;
        do
        :: i < N ->
            if
            :: asked = asked | BIT(i)
            :: skip
            fi;
            i++
        :: else -> break
        od;
        if
        :: SIZE(asked) >= MIN_NODES && SIZE(asked) >= 3
        :: else -> goto done
        fi;
#else
        asked = EVERYBODY;
#endif
        i = 0;
        do
        :: i < N ->
            if
            :: HAS(asked, i) -> chosen = chosen | BIT(i)
            :: skip
            fi;
            i++
        :: else -> break
        od;
        i = 0;
        if
        :: SIZE(chosen) >= SMALLEST(asked)
        :: else -> goto done
        fi;
#ifdef SYMMETRIC /* nodes may be renamed: the first sum is over the lowest honest ids, with or without the others */
        if
        :: sums > 0 || ((chosen & (BIT(HONEST) - 1)) & ((chosen & (BIT(HONEST) - 1)) + 1)) == 0
        :: else -> goto done
        fi;
#endif
        fine = 1;
        d_step { check_cohort() };
        if
        :: fine
        :: else -> goto done
        fi;
        /* Exactly as many honest signers as are needed: one more only closes ways. */
        do
        :: i < HONEST && SIZE(willing) + SIZE(asked >> HONEST) < THRESHOLD(asked) ->
            d_step {
                check_history(i);
                fine = fine && HAS(asked, i)
            };
            if
            :: fine -> willing = willing | BIT(i)
            :: skip
            fi;
            i++
        :: else -> break
        od;
        if
        :: SIZE(willing) + SIZE(asked >> HONEST) >= THRESHOLD(asked)
        :: else -> goto done
        fi;
        d_step {
            cohort[sums] = asked;
            members[sums] = chosen;
            signers[sums] = willing;
            sums++;
            i = 0;
            look();
            asked = 0; chosen = 0; willing = 0; fine = 0; i = 0
        };
        printf("opened {%d} of cohort {%d}, signed by {%d} and the others\n", members[sums - 1], cohort[sums - 1],
               signers[sums - 1]);
        goto again;
done: /* this choice leads nowhere */
        asked = 0; chosen = 0; willing = 0; fine = 0; i = 0
    }
}
