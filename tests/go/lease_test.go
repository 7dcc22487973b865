package tests

// Goal: a lease lives as long as somebody keeps it alive, on whichever replica, and no shorter than
// its TTL; its end deletes all its keys in one revision, once, for every watcher.

import (
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/status"

	"drover/tests/harness"
)

func TestALeaseEndsOnceAndNeverEarly(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		c := start(t, setup)
		withinTTL(t, 3, func(try int, ttl int64) (string, time.Duration) {
			l := &leaseLife{t: t, c: c, ttl: ttl, key: fmt.Sprintf("try%d/", try)}
			return l.run()
		})
	})
}

// leaseLife is a lease with keys below |key|, kept alive for a while and then left alone.
type leaseLife struct {
	t    *testing.T
	c    *harness.Cluster
	ttl  int64
	key  string
	id   clientv3.LeaseID
	last time.Time // Before its last renewal was sent.
}

const leaseKeys = 5

// at takes turns between the replicas.
func (l *leaseLife) at(i int) *clientv3.Client {
	return client(l.t, l.c.Endpoints()[i%l.c.Setup.Replicas])
}

// run does it all. It returns what it could not do because the lease was gone, and how long behind
// the last renewal that was; the caller judges whether the lease had the right to be gone.
func (l *leaseLife) run() (string, time.Duration) {
	t, ctx := l.t, testContext(l.t)
	l.last = time.Now()
	lease := must[*clientv3.LeaseGrantResponse](t)(l.at(0).Grant(ctx, l.ttl))
	l.id = lease.ID
	behind := int64(0)
	for i := range leaseKeys {
		put, err := l.at(i).Put(ctx, fmt.Sprint(l.key, i), "x", clientv3.WithLease(l.id))
		if err != nil {
			return fmt.Sprintf("put: %v", err), time.Since(l.last)
		}
		behind = put.Header.Revision + 1
	}
	watches := make([]clientv3.WatchChan, l.c.Setup.Replicas)
	for i := range watches {
		watches[i] = l.at(i).Watch(ctx, l.key, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify(),
			clientv3.WithRev(behind))
		<-watches[i]
	}
	// Kept alive for a while, each time elsewhere.
	for i := range 5 {
		time.Sleep(time.Second)
		sent := time.Now()
		kept, err := l.at(i).KeepAliveOnce(ctx, l.id)
		if err != nil {
			return fmt.Sprintf("keep-alive: %v", err), time.Since(l.last)
		}
		l.last = sent
		check(t, kept.TTL == l.ttl, "keep-alive: TTL %d", kept.TTL)
		left := must[*clientv3.LeaseTimeToLiveResponse](t)(l.at(i+1).TimeToLive(ctx, l.id, clientv3.WithAttachedKeys()))
		if left.TTL <= 0 {
			return fmt.Sprintf("time to live: %+v", left), time.Since(l.last)
		}
		check(t, left.GrantedTTL == l.ttl && len(left.Keys) == leaseKeys, "time to live: %+v", left)
	}
	l.end(watches)
	return "", 0
}

// end wants all keys to end in one revision, seen so by everybody, and not before a TTL has passed.
func (l *leaseLife) end(watches []clientv3.WatchChan) {
	t, ctx := l.t, testContext(l.t)
	var wg sync.WaitGroup
	for i, watch := range watches {
		wg.Add(1)
		go func() {
			defer wg.Done()
			select {
			case resp := <-watch:
				took := time.Since(l.last)
				if took < time.Duration(l.ttl)*time.Second {
					t.Errorf("replica %d: the lease ends %v after its last keep-alive", i, took)
				}
				if len(resp.Events) != leaseKeys {
					t.Errorf("replica %d: %d events in one response: %v", i, len(resp.Events), resp.Events)
				}
				for j, e := range resp.Events {
					if string(e.Kv.Key) != fmt.Sprint(l.key, j) || e.Type != clientv3.EventTypeDelete ||
						e.Kv.ModRevision != resp.Events[0].Kv.ModRevision || e.PrevKv == nil {
						t.Errorf("replica %d, event %d: %v", i, j, e)
					}
				}
				t.Logf("replica %d sees the end after %v", i, took.Round(10*time.Millisecond))
			case <-time.After(harness.Patience + time.Duration(l.ttl)*time.Second):
				t.Errorf("replica %d sees no end", i)
			}
		}()
	}
	wg.Wait()
	for i := range l.c.Setup.Replicas {
		gone := must[*clientv3.LeaseTimeToLiveResponse](t)(l.at(i).TimeToLive(ctx, l.id))
		check(t, gone.TTL == -1, "replica %d: TTL %d", i, gone.TTL)
		_, err := l.at(i).KeepAliveOnce(ctx, l.id)
		check(t, err != nil && err.Error() == "etcdserver: requested lease not found", "replica %d: keep-alive: %v", i, err)
	}
}

// TestTheRemainingTimeGoesDown: by more than a second, from what was granted. That a stall of the
// server starts a lease's time again is no harm, if only it goes down in the end.
func TestTheRemainingTimeGoesDown(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		c := start(t, setup)
		ctx := testContext(t)
		const ttl = 1000
		before := time.Now()
		lease := must[*clientv3.LeaseGrantResponse](t)(client(t, c.Endpoints()[0]).Grant(ctx, ttl))
		for i, endpoint := range c.Endpoints() {
			cl := client(t, endpoint)
			left := int64(ttl)
			down := harness.Eventually(func() bool {
				left = must[*clientv3.LeaseTimeToLiveResponse](t)(cl.TimeToLive(ctx, lease.ID)).TTL
				least := ttl - int64(time.Since(before)/time.Second) - 1
				check(t, left >= least && left <= ttl, "replica %d: %d s of %d are left, at least %d should be", i, left, ttl, least)
				return left <= ttl-3
			})
			check(t, down, "replica %d: %d s of %d are left", i, left, ttl)
		}
	})
}

func leaseIsGone(err error) bool {
	return status.Convert(err).Message() == "etcdserver: requested lease not found"
}

// TestManyLeasesEnd: hundreds at once, none early, none forgotten.
func TestManyLeasesEnd(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		c := start(t, setup)
		ctx := testContext(t)
		n := size(300, 3000)
		granted := make([]time.Time, n)
		var mu sync.Mutex
		watch := client(t, c.Endpoints()...).Watch(ctx, "lease/", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
		<-watch
		var wg sync.WaitGroup
		for worker := range 16 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				conn := dial(t, c.Endpoints()[worker%setup.Replicas])
				for i := worker; i < n; {
					now := time.Now()
					lease, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 4})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					granted[i] = now
					mu.Unlock()
					key := fmt.Appendf(nil, "lease/%d", i)
					_, err = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: key, Lease: lease.ID})
					switch {
					case err == nil:
						i += 16
					case !leaseIsGone(err) || time.Since(now) < 4*time.Second: // Else too slow: once more.
						t.Error(err)
						return
					}
				}
			}()
		}
		wg.Wait()
		latest := time.Duration(0)
		seen := map[string]bool{}
		for len(seen) < n {
			select {
			case resp := <-watch:
				check(t, resp.Err() == nil, "watch: %v", resp.Err())
				for _, e := range resp.Events {
					var i int
					_, err := fmt.Sscanf(string(e.Kv.Key), "lease/%d", &i)
					check(t, err == nil && !seen[string(e.Kv.Key)], "%s ends twice", e.Kv.Key)
					seen[string(e.Kv.Key)] = true
					mu.Lock()
					took := time.Since(granted[i])
					mu.Unlock()
					check(t, took >= 4*time.Second, "%s ends after %v", e.Kv.Key, took)
					latest = max(latest, took)
				}
			case <-time.After(harness.Patience):
				t.Fatalf("%d of %d leases ended", len(seen), n)
			}
		}
		leases := pb.NewLeaseClient(dial(t, c.Endpoints()[0]))
		var left *pb.LeaseLeasesResponse
		none := harness.Eventually(func() bool { // One whose put came too late may live a little longer.
			var err error
			left, err = leases.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
			return err == nil && len(left.Leases) == 0
		})
		check(t, none, "left: %v", left)
		t.Logf("%d leases of 4 s: the last ended after %v", n, latest.Round(10*time.Millisecond))
	})
}

// TestLocksOfTheClientLibrary: its mutex excludes, over replicas, by leases, Txns and watches.
func TestLocksOfTheClientLibrary(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		c := start(t, setup)
		ctx := testContext(t)
		inside, total := 0, 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for worker := range 6 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				session, err := concurrency.NewSession(client(t, c.Endpoints()[worker%setup.Replicas]), concurrency.WithTTL(300))
				if err != nil {
					t.Error(err)
					return
				}
				defer session.Close()
				m := concurrency.NewMutex(session, "/lock")
				for range size(10, 60) {
					if err := m.Lock(ctx); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					inside++
					if inside != 1 {
						t.Errorf("%d are inside", inside)
					}
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
					inside--
					total++
					mu.Unlock()
					if err := m.Unlock(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		wg.Wait()
		check(t, total == 6*size(10, 60), "%d times inside", total)
	})
}
