/* A wall between cache and sql. */
#include "sql/sql.h"
