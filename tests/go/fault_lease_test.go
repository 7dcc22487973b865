package tests

// Goal: a lease never ends before its TTL by the client's own clock, and ends after it; whoever
// grants it, renews it or has the duty, and whoever dies.
// Method: keys on many leases of several lengths, a watcher that stamps their end, keep-alives
// through other replicas, kill -9 of the one that ends leases.

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"drover/tests/harness"
)

// leaseBook is what the client knows of one lease: it must not end before |notBefore|, which is the
// TTL behind the moment when its last renewal was sent. How long behind |answered| plus the TTL it
// ends depends on the machine, too, and is only told.
type leaseBook struct {
	key       string
	id        int64
	ttl       time.Duration
	notBefore time.Time
	answered  time.Time
	renewals  int
}

type leaseRun struct {
	t     *testing.T
	conns []*grpc.ClientConn
	mu    sync.Mutex
	books []*leaseBook
	ended map[string]time.Time
}

// grant makes a lease and its key; another lease if the machine is so slow that the first has ended
// when its key comes.
func (r *leaseRun) grant(i int, ttl int64) (*leaseBook, error) {
	for {
		b, err := r.grantOnce(i, ttl)
		if !leaseIsGone(err) || time.Now().Before(b.notBefore) {
			return b, err
		}
		ttl *= 2
	}
}

func (r *leaseRun) grantOnce(i int, ttl int64) (*leaseBook, error) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	conn := r.conns[i%len(r.conns)]
	asked := time.Now()
	granted, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: ttl})
	if err != nil {
		return nil, err
	}
	if granted.TTL != ttl {
		return nil, fmt.Errorf("TTL %d, not %d", granted.TTL, ttl)
	}
	b := &leaseBook{key: fmt.Sprintf("lease/%d", i), id: granted.ID, ttl: time.Duration(ttl) * time.Second,
		notBefore: asked.Add(time.Duration(ttl) * time.Second), answered: time.Now()}
	_, err = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(b.key), Lease: b.id})
	return b, err
}

// renew keeps |b| alive through another replica than the one that granted it, for a while.
func (r *leaseRun) renew(i int, b *leaseBook, until time.Time) {
	for n := 1; time.Now().Before(until); n++ {
		time.Sleep(700 * time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience/4)
		asked := time.Now()
		stream, err := pb.NewLeaseClient(r.conns[(i+n)%len(r.conns)]).LeaseKeepAlive(ctx)
		if err == nil {
			err = stream.Send(&pb.LeaseKeepAliveRequest{ID: b.id})
		}
		var resp *pb.LeaseKeepAliveResponse
		if err == nil {
			resp, err = stream.Recv()
		}
		cancel()
		if err != nil {
			continue // Its replica is down: the lease may have been renewed, or not.
		}
		r.mu.Lock()
		if resp.TTL == int64(b.ttl/time.Second) {
			b.notBefore, b.answered = asked.Add(b.ttl), time.Now()
			b.renewals++
		} else if now := time.Now(); now.Before(b.notBefore) {
			r.t.Errorf("%s is gone %v before its end: %v", b.key, b.notBefore.Sub(now), resp)
		}
		r.mu.Unlock()
		if resp.TTL == 0 {
			return
		}
	}
}

// watch stamps the deletes below lease/, on replica |at|, from revision |rev|.
func (r *leaseRun) watch(ctx context.Context, at int, rev int64) error {
	stream, err := pb.NewWatchClient(r.conns[at]).Watch(ctx)
	if err == nil {
		create := &pb.WatchCreateRequest{Key: []byte("lease/"), RangeEnd: []byte("lease0"), StartRevision: rev}
		err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	}
	for err == nil {
		var resp *pb.WatchResponse
		if resp, err = stream.Recv(); err != nil {
			break
		}
		now := time.Now()
		r.mu.Lock()
		for _, e := range resp.Events {
			if _, seen := r.ended[string(e.Kv.Key)]; e.Type == mvccpb.Event_DELETE && !seen {
				r.ended[string(e.Kv.Key)] = now
			}
		}
		r.mu.Unlock()
	}
	return err
}

// run grants |count| leases of 2 to 4 s, renews every second one for 3 s, calls |harm| when all are
// granted and 1.5 s have passed, and wants none to end before its TTL, and each to end.
func (r *leaseRun) run(count int, harm func()) {
	t := r.t
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	watcher := len(r.conns) - 1
	go func() {
		for ctx.Err() == nil {
			_ = r.watch(ctx, watcher, 2)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	began := time.Now()
	var wg, granted sync.WaitGroup
	for i := range count {
		wg.Add(1)
		granted.Add(1)
		go func() {
			defer wg.Done()
			b, err := r.grant(i, int64(2+i%3))
			granted.Done()
			if err != nil {
				t.Errorf("lease %d: %v", i, err)
				return
			}
			r.mu.Lock()
			r.books = append(r.books, b)
			r.mu.Unlock()
			if i%2 == 1 {
				r.renew(i, b, began.Add(3*time.Second))
			}
		}()
	}
	granted.Wait()
	time.Sleep(time.Until(began.Add(1500 * time.Millisecond)))
	harm()
	wg.Wait()
	harness.Eventually(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ended) == len(r.books)
	})
	cancel()
	r.judge()
}

func (r *leaseRun) judge() {
	t := r.t
	r.mu.Lock()
	defer r.mu.Unlock()
	var worst, soonest time.Duration = 0, time.Hour
	renewals := 0
	for _, b := range r.books {
		end, ok := r.ended[b.key]
		if !ok {
			t.Errorf("%s of %v does not end (last renewal answered %v ago)", b.key, b.ttl, time.Since(b.answered))
			continue
		}
		soonest = min(soonest, end.Sub(b.notBefore))
		worst = max(worst, end.Sub(b.answered.Add(b.ttl)))
		renewals += b.renewals
		if end.Before(b.notBefore) {
			t.Errorf("%s of %v ends %v too early", b.key, b.ttl, b.notBefore.Sub(end))
		}
	}
	t.Logf("%d leases, %d renewals: ended between %v and %v behind their TTL", len(r.books), renewals,
		soonest.Round(time.Millisecond), worst.Round(time.Millisecond))
}

func newLeaseRun(t *testing.T, endpoints []string) *leaseRun {
	r := &leaseRun{t: t, ended: map[string]time.Time{}}
	for _, endpoint := range endpoints {
		r.conns = append(r.conns, dial(t, endpoint))
	}
	return r
}

func TestEveryLeaseEndsAndNeverEarly(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		t.Parallel()
		c := start(t, setup)
		newLeaseRun(t, c.Endpoints()).run(size(40, 2000), func() {})
	})
}

// TestALeaseOutlivesTheKeeperOfTheDuty: kill -9 of the replica that ends leases. Another takes the
// duty when it runs out (3 s); a single replica starts all its timers again when it is back.
func TestALeaseOutlivesTheKeeperOfTheDuty(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		needDrover(t)
		if setup.Engine == "postgres" && setup.Replicas == 1 {
			t.Skip("one and three replicas show it")
		}
		t.Parallel()
		c := start(t, setup)
		ctx := testContext(t)
		keeper := -1
		for i := 0; keeper < 0; i++ { // Somebody has it, or will soon.
			own, err := pb.NewMaintenanceClient(dial(t, c.Endpoints()[i%setup.Replicas])).Status(ctx, &pb.StatusRequest{})
			check(t, err == nil, "status: %v", err)
			if own.Header.MemberId == own.Leader {
				keeper = i % setup.Replicas
			}
		}
		// The watcher is on the last one: put the keeper first.
		c.Replicas[0], c.Replicas[keeper] = c.Replicas[keeper], c.Replicas[0]
		newLeaseRun(t, c.Endpoints()).run(size(40, 1000), func() {
			c.Replicas[0].Kill()
			if setup.Replicas == 1 {
				check(t, c.Replicas[0].Restart() == nil, "restart: %s", c.Replicas[0].LogTail(5))
			}
		})
	})
}

// TestAnOutageEndsNoLease: the database stalls for longer than the TTL; nothing may end by that, and
// whoever renews within a TTL of its return keeps the lease.
func TestAnOutageEndsNoLease(t *testing.T) {
	p := startProxied(t, 3)
	withinTTL(t, 3, func(try int, ttl int64) (string, time.Duration) {
		return outage(t, p, newLeaseRun(t, p.Endpoints()), try, ttl)
	})
}

func outage(t *testing.T, p *proxied, r *leaseRun, try int, ttl int64) (string, time.Duration) {
	const leases = 12
	length := time.Duration(ttl) * time.Second
	var books []*leaseBook
	for i := range leases {
		b, err := r.grant(try*leases+i, ttl)
		check(t, err == nil, "grant: %v", err)
		books = append(books, b)
	}
	time.Sleep(500 * time.Millisecond)
	for _, x := range p.proxies {
		x.Stall()
	}
	stalled := time.Now()
	for i, b := range books {
		if stalled.After(b.notBefore) {
			r.resume(p)
			return fmt.Sprintf("lease %d before the outage", i), b.ttl + stalled.Sub(b.notBefore)
		}
	}
	time.Sleep(2 * length)
	back := time.Now()
	r.resume(p)
	for i, b := range books {
		var resp *pb.LeaseKeepAliveResponse
		renewed := harness.Eventually(func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), harness.Patience/4)
			defer cancel()
			stream, err := pb.NewLeaseClient(r.conns[(i+1)%3]).LeaseKeepAlive(ctx)
			if err == nil {
				err = stream.Send(&pb.LeaseKeepAliveRequest{ID: b.id})
			}
			if err == nil {
				resp, err = stream.Recv()
			}
			return err == nil
		})
		check(t, renewed, "no renewal after the outage")
		if resp.TTL != int64(b.ttl/time.Second) {
			return fmt.Sprintf("lease %d is gone after the outage: %v", i, resp), time.Since(back)
		}
	}
	t.Logf("all renewed %v after the outage", time.Since(back).Round(time.Millisecond))
	return "", 0
}

func (r *leaseRun) resume(p *proxied) {
	for _, x := range p.proxies {
		x.Resume()
	}
}
