package tests

import (
	"bytes"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"drover/tests/harness"
)

func short(m proto.Message) string {
	if m == nil {
		return "nothing"
	}
	text := prototext.MarshalOptions{}.Format(m)
	if len(text) > 2000 {
		text = text[:2000] + fmt.Sprintf("… (%d bytes)", proto.Size(m))
	}
	return "{" + text + "}"
}

// normalize is the only place where something is taken out of the comparison: who answered, ids
// that a server makes up, and orders that etcd itself does not keep (the keys of a lease come out
// of a Go map, the list of leases is sorted by their remaining time). Where watch responses are
// cut is taken out by comparing events one by one; remaining TTLs by leaseBooks.
func (s *side) normalize(m proto.Message) proto.Message {
	if m == nil {
		return nil
	}
	m = proto.Clone(m)
	s.normalizeHeaders(m.ProtoReflect())
	eachInt64(m.ProtoReflect(), func(fd protoreflect.FieldDescriptor, v int64) int64 {
		if name := fd.Name(); name == "lease" || name == "ID" {
			if symbol, ok := s.symbols[v]; ok {
				return symbol
			}
		}
		return v
	})
	switch r := m.(type) {
	case *pb.LeaseTimeToLiveResponse:
		slices.SortFunc(r.Keys, bytes.Compare)
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
	}
	return m
}

func (s *side) normalizeHeaders(m protoreflect.Message) {
	if header, ok := m.Interface().(*pb.ResponseHeader); ok {
		header.ClusterId, header.MemberId, header.RaftTerm = 0, 0, 0
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				s.normalizeHeaders(v.List().Get(i).Message())
			}
		default:
			s.normalizeHeaders(v.Message())
		}
		return true
	})
}

// sameTTL evens out remaining TTLs that are both in time.
func sameTTL(want, got proto.Message) {
	a, okA := want.(*pb.LeaseTimeToLiveResponse)
	b, okB := got.(*pb.LeaseTimeToLiveResponse)
	if okA && okB && a.GrantedTTL > 0 && a.TTL >= 0 && b.TTL >= 0 {
		b.TTL = a.TTL
	}
}

func headerOf(m proto.Message) *pb.ResponseHeader {
	if h, ok := m.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return h.GetHeader()
	}
	if r, ok := m.(*pb.RangeStreamResponse); ok {
		return r.GetRangeResponse().GetHeader()
	}
	return nil
}

// sameAnswer compares field by field, errors by code and message.
func (r *runner) sameAnswer(want, got answer) bool {
	if want.err != nil || got.err != nil {
		a, b := status.Convert(want.err), status.Convert(got.err)
		return a.Code() == b.Code() && a.Message() == b.Message() && len(b.Details()) == len(a.Details())
	}
	a, b := r.etcd.normalize(want.resp), r.drover.normalize(got.resp)
	if want.inTime && got.inTime {
		sameTTL(a, b)
	}
	return proto.Equal(a, b)
}

// compare returns whether drover's answer may stand beside etcd's. |req| is what etcd was sent,
// |ours| what drover was: they differ in the ids of leases.
func (r *runner) compare(o *op, req, ours proto.Message, want, got answer) bool {
	if r.sameAnswer(want, got) {
		return true
	}
	if r.etcd.rightlyGone(req, want) || r.drover.rightlyGone(ours, got) {
		return true
	}
	if o.kind == opStream && got.err == nil && r.etcdContradictsItself(o, req) {
		stream := got.resp.(*pb.RangeStreamResponse).RangeResponse
		return r.sameAnswer(r.etcd.unary(o, req), answer{resp: stream})
	}
	if r.setup.Replicas == 1 {
		return false
	}
	if want.err == nil && got.err == nil && r.sameButForLag(o, want, got) {
		return true
	}
	return o.isLocal() && r.sameAtItsRevision(o, req, ours, got)
}

// rightlyGone tells of a LeaseRevoke of a lease with the least TTL, on a slow machine.
func (s *side) rightlyGone(req proto.Message, a answer) bool {
	revoke, ok := req.(*pb.LeaseRevokeRequest)
	return ok && leaseIsGone(a.err) && s.books.mayBeGone(revoke.ID)
}

// sameButForLag accepts an older header revision on answers that etcd, too, fills in from the
// member's own memory: the lease calls.
func (r *runner) sameButForLag(o *op, want, got answer) bool {
	switch want.resp.(type) {
	case *pb.LeaseKeepAliveResponse, *pb.LeaseTimeToLiveResponse, *pb.LeaseLeasesResponse:
	default:
		return false
	}
	if headerOf(got.resp).GetRevision() > headerOf(want.resp).GetRevision() {
		return false
	}
	level := proto.Clone(got.resp)
	headerOf(level).Revision = headerOf(want.resp).GetRevision()
	if !r.sameAnswer(want, answer{resp: level, inTime: got.inTime}) {
		return false
	}
	r.hist.add("lag/" + o.method())
	return true
}

// sameAtItsRevision judges an answer from another replica's memory by what etcd says for the
// revision in its header. Where that can't be asked, the replica must agree soon.
func (r *runner) sameAtItsRevision(o *op, req, ours proto.Message, got answer) bool {
	rr, isRange := req.(*pb.RangeRequest)
	if at := headerOf(got.resp).GetRevision(); got.err == nil && isRange && at > 0 && at < r.current {
		then := proto.Clone(rr).(*pb.RangeRequest)
		if then.Revision <= 0 {
			then.Revision = at
		}
		want := r.etcd.do(o, then)
		if want.err == nil {
			headerOf(want.resp).Revision = at
			if r.sameAnswer(want, got) {
				r.hist.add("lag/" + o.method())
				return true
			}
			return false
		}
	}
	agree := harness.Eventually(func() bool { return r.sameAnswer(r.etcd.do(o, req), r.drover.do(o, ours)) })
	if agree {
		r.hist.add("lag/" + o.method())
	}
	return agree
}
