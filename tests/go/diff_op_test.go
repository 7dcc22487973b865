package tests

// One step of a differential program, and the symbols that make a program replayable: revisions
// and lease ids are not known when it is generated, so they stand as offsets from a symbol and are
// put in just before sending, for each side by itself.

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	symSpan    = int64(1) << 20
	symCurrent = int64(1) << 50 // + n: n revisions after the current one.
	symCompact = int64(1) << 51 // + n: n revisions after the compact revision.
	symLease   = int64(1) << 52 // + n: the lease of slot n, granted with ID 0.

	unknownLease = int64(0x7a7a7a7a) // Nobody grants this one.
)

type opKind int

const (
	opCall     opKind = iota // req tells which unary call or server stream.
	opStream                 // RangeStream; req is its RangeRequest.
	opKeep                   // LeaseKeepAlive; req on the open stream of the replica.
	opWatch                  // WatchCreateRequest on watch stream `stream`.
	opCancel                 // Cancel the `target`th watcher of the stream; < 0: an unknown id.
	opProgress               // WatchProgressRequest on the stream.
	opSync                   // Wait until all watchers have all that they must get.
)

type op struct {
	kind    opKind
	req     proto.Message
	replica int
	slot    int // A LeaseGrant with ID 0 fills this slot.
	stream  int
	target  int
}

// A step is one op, or several reads that are sent at the same time.
type step []op

func (o *op) method() string {
	switch o.kind {
	case opStream:
		return "RangeStream"
	case opKeep:
		return "LeaseKeepAlive"
	case opWatch:
		return "Watch.create"
	case opCancel:
		return "Watch.cancel"
	case opProgress:
		return "Watch.progress"
	case opSync:
		return "Watch.events"
	}
	switch o.req.(type) {
	case *pb.RangeRequest:
		return "Range"
	case *pb.PutRequest:
		return "Put"
	case *pb.DeleteRangeRequest:
		return "DeleteRange"
	case *pb.TxnRequest:
		return "Txn"
	case *pb.CompactionRequest:
		return "Compact"
	case *pb.LeaseGrantRequest:
		return "LeaseGrant"
	case *pb.LeaseRevokeRequest:
		return "LeaseRevoke"
	case *pb.LeaseTimeToLiveRequest:
		return "LeaseTimeToLive"
	case *pb.LeaseLeasesRequest:
		return "LeaseLeases"
	}
	return fmt.Sprintf("%T", o.req)
}

// isRead tells whether the op leaves the store as it is, so that others may run beside it.
func (o *op) isRead() bool {
	switch r := o.req.(type) {
	case *pb.RangeRequest, *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest:
		return o.kind == opCall || o.kind == opStream
	case *pb.TxnRequest:
		return txnIsRead(r)
	}
	return false
}

func txnIsRead(r *pb.TxnRequest) bool {
	for _, list := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, ro := range list {
			switch u := ro.Request.(type) {
			case *pb.RequestOp_RequestRange:
			case *pb.RequestOp_RequestTxn:
				if !txnIsRead(u.RequestTxn) {
					return false
				}
			default:
				return false
			}
		}
	}
	return true
}

// isLocal tells whether etcd answers it from the member's own memory, perhaps an old state.
func (o *op) isLocal() bool {
	switch r := o.req.(type) {
	case *pb.RangeRequest:
		return r.Serializable
	case *pb.LeaseLeasesRequest:
		return true
	case *pb.TxnRequest:
		for _, list := range [][]*pb.RequestOp{r.Success, r.Failure} {
			for _, ro := range list {
				rr := ro.GetRequestRange()
				if rr == nil || !rr.Serializable {
					return false
				}
			}
		}
		return true
	}
	return false
}

func (o *op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s replica=%d", o.method(), o.replica)
	switch o.kind {
	case opWatch, opProgress, opSync:
		fmt.Fprintf(&b, " stream=%d", o.stream)
	case opCancel:
		fmt.Fprintf(&b, " stream=%d watcher=%d", o.stream, o.target)
	}
	if o.req != nil {
		text := prototext.MarshalOptions{}.Format(o.req)
		if len(text) > 1200 {
			text = text[:1200] + fmt.Sprintf("… (%d bytes)", proto.Size(o.req))
		}
		b.WriteString(" {" + text + "}")
	}
	return b.String()
}

// eachInt64 calls |visit| for every populated int64 field below |m|; it may return another value.
func eachInt64(m protoreflect.Message, visit func(protoreflect.FieldDescriptor, int64) int64) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsList() && fd.Message() != nil:
			list := v.List()
			for i := range list.Len() {
				eachInt64(list.Get(i).Message(), visit)
			}
		case fd.IsList():
		case fd.Message() != nil:
			eachInt64(v.Message(), visit)
		case fd.Kind() == protoreflect.Int64Kind:
			if now := visit(fd, v.Int()); now != v.Int() {
				m.Set(fd, protoreflect.ValueOfInt64(now))
			}
		}
		return true
	})
}

// resolve returns a copy of |req| with the symbols put in.
func resolve(req proto.Message, current, compact int64, lease func(slot int) int64) proto.Message {
	if req == nil {
		return nil
	}
	clone := proto.Clone(req)
	near := func(v, base int64) bool { return v > base-symSpan && v < base+symSpan }
	eachInt64(clone.ProtoReflect(), func(_ protoreflect.FieldDescriptor, v int64) int64 {
		switch {
		case near(v, symCurrent):
			return current + v - symCurrent
		case near(v, symCompact):
			return compact + v - symCompact
		case near(v, symLease):
			return lease(int(v - symLease))
		}
		return v
	})
	return clone
}
