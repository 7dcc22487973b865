/* State machines whose legal moves are data: an illegal move is a panic with both names.
 * Embedded by its owner, on whose thread all of this runs. Allocates nothing; O(1). */
#ifndef CORE_SM_H
#define CORE_SM_H

#include "core/base.h"

#define SM_TO(state) (UINT32_C(1) << (state))

struct sm_state {
    const char *name;
    uint32_t to; /* Bit set of SM_TO. 0 = final. */
};

struct sm {
    const struct sm_state *states;
    uint32_t count;
    uint32_t now;
};

/* |states| is borrowed for as long as the machine lives; |count| is 1 to 32. O(count). */
void sm_init(struct sm *sm, const struct sm_state *states, uint32_t count, uint32_t first);
/* Panics when the table does not allow it. */
void sm_move(struct sm *sm, uint32_t to);
static inline bool sm_is(const struct sm *sm, uint32_t state)
{
    return sm->now == state;
}
/* Of the state that it is in. */
const char *sm_name(const struct sm *sm);

#endif
