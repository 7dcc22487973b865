package tests

// What a run has exercised. A run that did not meet everything often enough fails: a differential
// test proves nothing about what it never sent.

import (
	"bytes"
	"fmt"
	"math"
	"sort"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// mustOccur lists every RPC, option, error text and nesting depth.
var mustOccur = strings.Split(strings.TrimSpace(`
rpc/Range
rpc/RangeStream
rpc/Put
rpc/DeleteRange
rpc/Txn
rpc/Compact
rpc/LeaseGrant
rpc/LeaseRevoke
rpc/LeaseKeepAlive
rpc/LeaseTimeToLive
rpc/LeaseLeases
rpc/Watch.create
rpc/Watch.cancel
rpc/Watch.progress
range/single key
range/range_end
range/range_end NUL
range/end <= key
range/limit
range/limit negative
range/limit cuts
range/revision current
range/revision old
range/revision == compact
range/revision compacted
range/revision future
range/revision negative
range/serializable
range/keys_only
range/count_only
range/min_mod
range/max_mod
range/min_create
range/max_create
range/sort ASCEND KEY
range/sort ASCEND VERSION
range/sort ASCEND CREATE
range/sort ASCEND MOD
range/sort ASCEND VALUE
range/sort DESCEND KEY
range/sort DESCEND VERSION
range/sort DESCEND CREATE
range/sort DESCEND MOD
range/sort DESCEND VALUE
range/sort NONE VERSION
range/sort NONE CREATE
range/sort NONE MOD
range/sort NONE VALUE
rangestream/limit
rangestream/revision
rangestream/keys_only
rangestream/count_only
rangestream/serializable
put/lease
put/prev_kv
put/ignore_value
put/ignore_lease
put/empty value
delete/prev_kv
delete/range_end
delete/range_end NUL
delete/single key
delete/nothing
txn/depth 1
txn/depth 2
txn/depth 3
txn/depth 4
txn/succeeded
txn/failed
txn/read-only
txn/no operations
txn/128 operations
txn/range
txn/put
txn/delete
txn/compare VERSION
txn/compare CREATE
txn/compare MOD
txn/compare VALUE
txn/compare LEASE
txn/compare EQUAL
txn/compare GREATER
txn/compare LESS
txn/compare NOT_EQUAL
txn/compare range_end
txn/compare without a value
compact/plain
compact/physical
lease/grant ID 0
lease/grant explicit
lease/grant negative ID
lease/grant TTL <= 0
lease/revoke found
lease/keep-alive found
lease/keep-alive unknown
lease/time-to-live keys
lease/time-to-live unknown
watch/start now
watch/start in history
watch/start == compact
watch/start compacted
watch/start negative
watch/start in future
watch/prev_kv
watch/NOPUT
watch/NODELETE
watch/fragment
watch/progress_notify
watch/explicit id
watch/single key
watch/range_end
watch/range_end NUL
watch/empty key
watch/cancel unknown id
watch/progress unanswered
watch/event PUT
watch/event DELETE
watch/event with prev_kv
error/3 etcdserver: key is not provided
error/3 etcdserver: key not found
error/3 etcdserver: value is provided
error/3 etcdserver: lease is provided
error/3 etcdserver: too many operations in txn request
error/3 etcdserver: duplicate key given in txn request
error/3 etcdserver: invalid sort option
error/3 etcdserver: request is too large
error/5 etcdserver: requested lease not found
error/8 grpc: received message larger than max
error/9 etcdserver: lease already exists
error/11 etcdserver: mvcc: required revision has been compacted
error/11 etcdserver: mvcc: required revision is a future revision
error/11 etcdserver: too large lease TTL
error/12 RangeStream does not support custom sort orders
error/12 RangeStream does not support revision filters
reason/mvcc: watcher range is empty
reason/mvcc: duplicate watch ID provided on the WatchStream
reason/etcdserver: mvcc: required revision has been compacted
reason/compact_revision
`), "\n")

type histogram struct {
	mu     sync.Mutex
	counts map[string]int
}

func newHistogram() *histogram { return &histogram{counts: map[string]int{}} }

func (h *histogram) add(name string) {
	h.mu.Lock()
	h.counts[name]++
	h.mu.Unlock()
}

func (h *histogram) addIf(yes bool, name string) {
	if yes {
		h.add(name)
	}
}

// lacking returns what occurred less than |least| times.
func (h *histogram) lacking(least int) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for _, name := range mustOccur {
		if h.counts[name] < least {
			names = append(names, fmt.Sprintf("%s: %d", name, h.counts[name]))
		}
	}
	return names
}

func (h *histogram) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := make([]string, 0, len(h.counts))
	for name := range h.counts {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%8d  %s\n", h.counts[name], name)
	}
	return b.String()
}

// count files one op by what it asked for and what etcd answered.
func (h *histogram) count(o *op, r *runner, req proto.Message, want answer) {
	h.add("rpc/" + o.method())
	if want.err != nil {
		st := status.Convert(want.err)
		text, _, _ := strings.Cut(st.Message(), " (")
		h.add(fmt.Sprintf("error/%d %s", st.Code(), text))
	}
	switch q := req.(type) {
	case *pb.RangeRequest:
		if o.kind == opStream {
			h.stream(q, want)
			return
		}
		h.rangeOptions(q, r, want.resp)
	case *pb.PutRequest:
		h.put(q)
	case *pb.DeleteRangeRequest:
		h.delete(q, want.resp)
	case *pb.TxnRequest:
		h.txn(q, r, want.resp)
	case *pb.CompactionRequest:
		h.addIf(q.Physical && want.err == nil, "compact/physical")
		h.addIf(!q.Physical && want.err == nil, "compact/plain")
	case *pb.WatchCreateRequest:
		h.watch(q, r, want.resp.(*pb.WatchResponse))
	case *pb.WatchCancelRequest:
		h.addIf(q.WatchId == 99999, "watch/cancel unknown id")
	default:
		h.lease(q, want)
	}
}

func (h *histogram) lease(req proto.Message, want answer) {
	switch q := req.(type) {
	case *pb.LeaseGrantRequest:
		if want.err == nil {
			h.addIf(q.ID == 0, "lease/grant ID 0")
			h.addIf(q.ID != 0, "lease/grant explicit")
			h.addIf(q.ID < 0, "lease/grant negative ID")
			h.addIf(q.TTL <= 0, "lease/grant TTL <= 0")
		}
	case *pb.LeaseRevokeRequest:
		h.addIf(want.err == nil, "lease/revoke found")
	case *pb.LeaseKeepAliveRequest:
		found := want.err == nil && want.resp.(*pb.LeaseKeepAliveResponse).TTL > 0
		h.addIf(found, "lease/keep-alive found")
		h.addIf(!found, "lease/keep-alive unknown")
	case *pb.LeaseTimeToLiveRequest:
		resp, _ := want.resp.(*pb.LeaseTimeToLiveResponse)
		h.addIf(len(resp.GetKeys()) > 0, "lease/time-to-live keys")
		h.addIf(resp.GetTTL() == -1, "lease/time-to-live unknown")
	}
}

func isNUL(b []byte) bool { return len(b) == 1 && b[0] == 0 }

func (h *histogram) rangeOptions(q *pb.RangeRequest, r *runner, resp proto.Message) {
	end := q.RangeEnd
	h.addIf(len(end) == 0, "range/single key")
	h.addIf(isNUL(end), "range/range_end NUL")
	empty := len(end) > 0 && !isNUL(end) && bytes.Compare(end, q.Key) <= 0
	h.addIf(empty, "range/end <= key")
	h.addIf(len(end) > 0 && !isNUL(end) && !empty, "range/range_end")
	h.addIf(q.Limit > 0, "range/limit")
	h.addIf(q.Limit < 0, "range/limit negative")
	answer, _ := resp.(*pb.RangeResponse)
	h.addIf(answer.GetMore(), "range/limit cuts")
	h.addIf(q.Serializable, "range/serializable")
	h.addIf(q.KeysOnly, "range/keys_only")
	h.addIf(q.CountOnly, "range/count_only")
	h.addIf(q.MinModRevision != 0, "range/min_mod")
	h.addIf(q.MaxModRevision != 0, "range/max_mod")
	h.addIf(q.MinCreateRevision != 0, "range/min_create")
	h.addIf(q.MaxCreateRevision != 0, "range/max_create")
	order, target := q.SortOrder.String(), q.SortTarget.String()
	h.addIf(q.SortOrder != 0 || q.SortTarget != 0, "range/sort "+order+" "+target)
	switch {
	case q.Revision == 0:
		h.add("range/revision current")
	case q.Revision < 0:
		h.add("range/revision negative")
	case q.Revision > r.current:
		h.add("range/revision future")
	case q.Revision == r.compact:
		h.add("range/revision == compact")
	case q.Revision < r.compact:
		h.add("range/revision compacted")
	default:
		h.add("range/revision old")
	}
}

func (h *histogram) stream(q *pb.RangeRequest, want answer) {
	if want.err != nil {
		return
	}
	h.addIf(q.Limit > 0, "rangestream/limit")
	h.addIf(q.Revision > 0, "rangestream/revision")
	h.addIf(q.KeysOnly, "rangestream/keys_only")
	h.addIf(q.CountOnly, "rangestream/count_only")
	h.addIf(q.Serializable, "rangestream/serializable")
}

func (h *histogram) put(q *pb.PutRequest) {
	h.addIf(q.Lease != 0, "put/lease")
	h.addIf(q.PrevKv, "put/prev_kv")
	h.addIf(q.IgnoreValue, "put/ignore_value")
	h.addIf(q.IgnoreLease, "put/ignore_lease")
	h.addIf(len(q.Value) == 0, "put/empty value")
}

func (h *histogram) delete(q *pb.DeleteRangeRequest, resp proto.Message) {
	h.addIf(q.PrevKv, "delete/prev_kv")
	h.addIf(len(q.RangeEnd) > 0, "delete/range_end")
	h.addIf(isNUL(q.RangeEnd), "delete/range_end NUL")
	h.addIf(len(q.RangeEnd) == 0, "delete/single key")
	answer, ok := resp.(*pb.DeleteRangeResponse)
	h.addIf(ok && answer.Deleted == 0, "delete/nothing")
}

func (h *histogram) txn(q *pb.TxnRequest, r *runner, resp proto.Message) {
	h.add(fmt.Sprint("txn/depth ", txnDepth(q)))
	answer, ok := resp.(*pb.TxnResponse)
	h.addIf(ok && answer.Succeeded, "txn/succeeded")
	h.addIf(ok && !answer.Succeeded, "txn/failed")
	h.addIf(ok && txnIsRead(q), "txn/read-only")
	h.addIf(ok && len(q.Success)+len(q.Failure) == 0, "txn/no operations")
	h.addIf(ok && max(len(q.Success), len(q.Failure), len(q.Compare)) == 128, "txn/128 operations")
	h.txnParts(q, r)
}

func (h *histogram) txnParts(q *pb.TxnRequest, r *runner) {
	for _, c := range q.Compare {
		h.add("txn/compare " + c.Target.String())
		h.add("txn/compare " + c.Result.String())
		h.addIf(len(c.RangeEnd) > 0, "txn/compare range_end")
		h.addIf(c.TargetUnion == nil, "txn/compare without a value")
	}
	for _, list := range [][]*pb.RequestOp{q.Success, q.Failure} {
		for _, ro := range list {
			switch u := ro.Request.(type) {
			case *pb.RequestOp_RequestRange:
				h.add("txn/range")
				h.rangeOptions(u.RequestRange, r, nil)
			case *pb.RequestOp_RequestPut:
				h.add("txn/put")
				h.put(u.RequestPut)
			case *pb.RequestOp_RequestDeleteRange:
				h.add("txn/delete")
				h.delete(u.RequestDeleteRange, nil)
			case *pb.RequestOp_RequestTxn:
				h.txnParts(u.RequestTxn, r)
			}
		}
	}
}

func txnDepth(q *pb.TxnRequest) int {
	depth := 0
	for _, list := range [][]*pb.RequestOp{q.Success, q.Failure} {
		for _, ro := range list {
			if child := ro.GetRequestTxn(); child != nil {
				depth = max(depth, txnDepth(child))
			}
		}
	}
	return depth + 1
}

func (h *histogram) watch(q *pb.WatchCreateRequest, r *runner, resp *pb.WatchResponse) {
	h.answered(resp)
	h.addIf(q.PrevKv, "watch/prev_kv")
	h.addIf(q.Fragment, "watch/fragment")
	h.addIf(q.ProgressNotify, "watch/progress_notify")
	h.addIf(q.WatchId != 0, "watch/explicit id")
	h.addIf(len(q.Key) == 0, "watch/empty key")
	h.addIf(len(q.RangeEnd) == 0, "watch/single key")
	h.addIf(isNUL(q.RangeEnd), "watch/range_end NUL")
	h.addIf(len(q.RangeEnd) > 0 && !isNUL(q.RangeEnd), "watch/range_end")
	for _, f := range q.Filters {
		h.add("watch/" + f.String())
	}
	switch start := q.StartRevision; {
	case start == 0:
		h.add("watch/start now")
	case start < 0 && start > math.MinInt64:
		h.add("watch/start negative")
	case start > r.current:
		h.add("watch/start in future")
	case start == r.compact:
		h.add("watch/start == compact")
	case start < r.compact:
		h.add("watch/start compacted")
	default:
		h.add("watch/start in history")
	}
}

func (h *histogram) answered(resp *pb.WatchResponse) {
	h.addIf(resp.CancelReason != "", "reason/"+resp.CancelReason)
	h.addIf(resp.CompactRevision != 0, "reason/compact_revision")
}

func (h *histogram) event(e *mvccpb.Event) {
	h.add("watch/event " + e.Type.String())
	h.addIf(e.PrevKv != nil, "watch/event with prev_kv")
}
