#ifndef CANARY_H
#define CANARY_H
#endif
