/* The etcd whose contract is served: clients and kube-apiserver read features from its version. */
#ifndef CORE_VERSION_H
#define CORE_VERSION_H

#define ETCD_VERSION_MINOR "3.7"
#define ETCD_VERSION ETCD_VERSION_MINOR ".3"
#define ETCD_CLUSTER_VERSION ETCD_VERSION_MINOR ".0" /* Also of the storage. */

#endif
