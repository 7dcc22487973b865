/*
 * A doubly linked ring of embedded links: O(1) to leave without knowing the list. All members
 * belong to one thread; nothing allocates, everything is O(1).
 */
#ifndef WATCH_LIST_H
#define WATCH_LIST_H

#include "core/base.h"

/* A head, or a member; a member that is in no list links to itself. */
struct list {
    struct list *next;
    struct list *prev;
};

static inline void list_init(struct list *list)
{
    list->next = list;
    list->prev = list;
}

static inline bool list_is_empty(const struct list *list)
{
    return list->next == list;
}

/* Behind all others of |head|. |member| is in no list. */
static inline void list_push(struct list *head, struct list *member)
{
    ASSERT(list_is_empty(member));
    member->prev = head->prev;
    member->next = head;
    head->prev->next = member;
    head->prev = member;
}

/* No-op when it is in no list. */
static inline void list_leave(struct list *member)
{
    member->prev->next = member->next;
    member->next->prev = member->prev;
    list_init(member);
}

#endif
