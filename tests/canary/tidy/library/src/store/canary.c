/* Only sql talks to a database. */
#include <libpq-fe.h>
