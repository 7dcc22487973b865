/* What drover says it is. */
#ifndef SERVER_VERSION_H
#define SERVER_VERSION_H

#include "sql/sql.h"

/* The etcd whose contract is served; clients and kube-apiserver read it to detect features. */
#define SERVER_ETCD_VERSION "3.7.3"
#define SERVER_ETCD_CLUSTER_VERSION "3.7.0"

#endif
