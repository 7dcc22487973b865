package tests

// Goal: the differential test sees what it is there for.
// Method: etcd is compared with etcd, and one answer of the second is changed on its way; a few
// programs must find each of these deviations, and none without.

import (
	"errors"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"drover/tests/harness"
)

// plant changes a message in place and tells whether it did; or returns another error.
type plant struct {
	name  string
	alter func(method string, resp proto.Message) bool
	fail  func(code codes.Code, message string) (codes.Code, string)
}

func onRange(change func(*pb.RangeResponse) bool) func(string, proto.Message) bool {
	return func(method string, m proto.Message) bool {
		r, ok := m.(*pb.RangeResponse)
		return ok && method == "Range" && change(r)
	}
}

func onWatch(change func(*pb.WatchResponse) bool) func(string, proto.Message) bool {
	return func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.WatchResponse)
		return ok && change(r)
	}
}

var plants = []plant{
	{name: "none"},
	{name: "count is one more", alter: onRange(func(r *pb.RangeResponse) bool {
		r.Count++
		return r.Count > 1
	})},
	{name: "more is lost", alter: onRange(func(r *pb.RangeResponse) bool {
		was := r.More
		r.More = false
		return was
	})},
	{name: "two keys change places", alter: onRange(func(r *pb.RangeResponse) bool {
		if len(r.Kvs) < 2 {
			return false
		}
		r.Kvs[0], r.Kvs[1] = r.Kvs[1], r.Kvs[0]
		return true
	})},
	{name: "a version is one more", alter: onRange(func(r *pb.RangeResponse) bool {
		if len(r.Kvs) == 0 {
			return false
		}
		r.Kvs[0].Version++
		return true
	})},
	{name: "a lease is forgotten", alter: onRange(func(r *pb.RangeResponse) bool {
		if len(r.Kvs) == 0 || r.Kvs[0].Lease == 0 {
			return false
		}
		r.Kvs[0].Lease = 0
		return true
	})},
	{name: "the header revision is one less", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.PutResponse)
		if ok {
			r.Header.Revision--
		}
		return ok
	}},
	{name: "prev_kv of a Put is missing", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.PutResponse)
		if !ok || r.PrevKv == nil {
			return false
		}
		r.PrevKv = nil
		return true
	}},
	{name: "an inner header is filled in", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.TxnResponse)
		if !ok {
			return false
		}
		for _, ro := range r.Responses {
			if inner := ro.GetResponseTxn(); inner != nil {
				inner.Header = &pb.ResponseHeader{Revision: r.Header.Revision}
				return true
			}
		}
		return false
	}},
	{name: "deleted is one less", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.DeleteRangeResponse)
		if !ok || r.Deleted == 0 {
			return false
		}
		r.Deleted--
		return true
	}},
	{name: "a granted TTL is another one", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.LeaseGrantResponse)
		if ok {
			r.TTL++
		}
		return ok
	}},
	{name: "a remaining TTL is too short", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.LeaseTimeToLiveResponse)
		if !ok || r.TTL < 10 {
			return false
		}
		r.TTL /= 2
		return true
	}},
	{name: "a remaining TTL is too long", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.LeaseTimeToLiveResponse)
		if ok {
			r.TTL = r.GrantedTTL + 1
		}
		return ok && r.GrantedTTL > 0
	}},
	{name: "a lease holds one key less", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.LeaseTimeToLiveResponse)
		if !ok || len(r.Keys) == 0 {
			return false
		}
		r.Keys = r.Keys[1:]
		return true
	}},
	{name: "the count of a stream is lost", alter: func(_ string, m proto.Message) bool {
		r, ok := m.(*pb.RangeStreamResponse)
		if !ok || r.RangeResponse.GetCount() == 0 {
			return false
		}
		r.RangeResponse.Count = 0
		return true
	}},
	{name: "an error has another code", fail: func(c codes.Code, m string) (codes.Code, string) {
		if c == codes.OutOfRange {
			return codes.FailedPrecondition, m
		}
		return c, m
	}},
	{name: "an error has another word", fail: func(c codes.Code, m string) (codes.Code, string) {
		if m == "etcdserver: requested lease not found" {
			return c, "etcdserver: lease not found"
		}
		return c, m
	}},
	{name: "created tells another revision", alter: onWatch(func(r *pb.WatchResponse) bool {
		if r.Created {
			r.Header.Revision++
		}
		return r.Created
	})},
	{name: "an event is lost", alter: onWatch(func(r *pb.WatchResponse) bool {
		if len(r.Events) == 0 {
			return false
		}
		r.Events = r.Events[1:]
		return true
	})},
	{name: "an event comes twice", alter: onWatch(func(r *pb.WatchResponse) bool {
		if len(r.Events) == 0 {
			return false
		}
		r.Events = append(r.Events, r.Events[len(r.Events)-1])
		return true
	})},
	{name: "prev_kv of an event is missing", alter: onWatch(func(r *pb.WatchResponse) bool {
		for _, e := range r.Events {
			if e.PrevKv != nil {
				e.PrevKv = nil
				return true
			}
		}
		return false
	})},
	{name: "progress is ahead of events", alter: onWatch(func(r *pb.WatchResponse) bool {
		if r.WatchId != -1 || r.Canceled || r.Created {
			return false
		}
		r.Header.Revision++
		return true
	})},
	{name: "a cancel reason is missing", alter: onWatch(func(r *pb.WatchResponse) bool {
		was := r.CancelReason != ""
		r.CancelReason = ""
		return was
	})},
	{name: "a compact revision is missing", alter: onWatch(func(r *pb.WatchResponse) bool {
		was := r.CompactRevision != 0
		r.CompactRevision = 0
		return was
	})},
}

// once returns the plant as the hook of a side: it strikes at the second chance only.
func (p *plant) once() alterFn {
	var mu sync.Mutex
	chances := 0
	strike := func() bool {
		chances++
		return chances == 2
	}
	return func(method string, _, resp proto.Message, err error) (proto.Message, error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil && p.fail != nil {
			st := status.Convert(err)
			code, message := p.fail(st.Code(), st.Message())
			if (code != st.Code() || message != st.Message()) && strike() {
				return nil, status.Error(code, message)
			}
		}
		if err == nil && p.alter != nil {
			changed := proto.Clone(resp)
			if p.alter(method, changed) && strike() {
				return changed, nil
			}
		}
		return resp, err
	}
}

func TestPlantedDeviationsAreFound(t *testing.T) {
	const programs = 12
	first := seed(t)
	for i := range plants {
		p := &plants[i]
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			found, err := p.search(first, programs)
			if err != nil {
				t.Fatal(err)
			}
			if found == nil && p.name != "none" {
				t.Errorf("not found in %d programs", programs)
			}
			if found != nil && p.name == "none" {
				t.Errorf("etcd differs from itself: %v", found)
			}
			if found != nil {
				t.Logf("found in seed %d, step %d", found.seed, found.index)
			}
		})
	}
}

// search runs programs on two etcds, the second behind the plant.
func (p *plant) search(first int64, programs int) (*deviation, error) {
	a, errA := harness.StartEtcd(1)
	b, errB := harness.StartEtcd(1)
	if err := errors.Join(errA, errB); err != nil {
		return nil, err
	}
	defer a[0].Close()
	defer b[0].Close()
	r := &runner{setup: harness.Setup{Engine: "planted", Replicas: 1}, hist: newHistogram(), current: 1}
	var err error
	if r.etcd, err = newSide("etcd", []string{a[0].Endpoint()}); err != nil {
		return nil, err
	}
	defer r.etcd.close()
	if r.drover, err = newSide("planted", []string{b[0].Endpoint()}); err != nil {
		return nil, err
	}
	defer r.drover.close()
	r.drover.alter = p.once()
	if r.history, err = openHistory(r.etcd.conn(0)); err != nil {
		return nil, err
	}
	for i := range int64(programs) {
		r.seed = first + i
		if d := r.run(generate(r.seed, programOps, 1)); d != nil {
			return d, nil
		}
	}
	return nil, nil
}
