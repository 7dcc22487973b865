/* Checked moves of state machines. */
#include "core/sm.h"

#include <stdio.h>

void sm_init(struct sm *sm, const struct sm_state *states, uint32_t count, uint32_t first)
{
    ASSERT(count > 0 && count <= 32);
    ASSERT(first < count);
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(states[i].name != NULL);
        ASSERT(count == 32 || states[i].to >> count == 0);
    }
    *sm = (struct sm){.states = states, .count = count, .now = first};
}

void sm_move(struct sm *sm, uint32_t to)
{
    ASSERT(to < sm->count);
    if ((sm->states[sm->now].to & SM_TO(to)) == 0) {
        char what[128];
        (void)snprintf(what, sizeof(what), "illegal move from %s to %s", sm_name(sm),
                       sm->states[to].name);
        panic(__FILE__, __LINE__, __func__, what);
    }
    sm->now = to;
}

const char *sm_name(const struct sm *sm)
{
    ASSERT(sm->now < sm->count);
    return sm->states[sm->now].name;
}
