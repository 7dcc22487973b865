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

	"drover/tests/harness"
)

func TestALeaseEndsOnceAndNeverEarly(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		const ttl, keys = 3, 5
		c := start(t, setup)
		ctx := testContext(t)
		at := func(i int) *clientv3.Client { return client(t, c.Endpoints()[i%setup.Replicas]) }
		lease := must[*clientv3.LeaseGrantResponse](t)(at(0).Grant(ctx, ttl))
		behind := int64(0)
		for i := range keys {
			put := must[*clientv3.PutResponse](t)(at(i).Put(ctx, fmt.Sprint("key", i), "x", clientv3.WithLease(lease.ID)))
			behind = put.Header.Revision + 1
		}
		watches := make([]clientv3.WatchChan, setup.Replicas)
		for i := range watches {
			watches[i] = at(i).Watch(ctx, "key", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify(),
				clientv3.WithRev(behind))
			<-watches[i]
		}
		// Kept alive for a while, each time elsewhere.
		var last time.Time
		for i := range 5 {
			time.Sleep(time.Second)
			last = time.Now()
			kept := must[*clientv3.LeaseKeepAliveResponse](t)(at(i).KeepAliveOnce(ctx, lease.ID))
			check(t, kept.TTL == ttl, "keep-alive: TTL %d", kept.TTL)
			left := must[*clientv3.LeaseTimeToLiveResponse](t)(at(i+1).TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys()))
			check(t, left.GrantedTTL == ttl && left.TTL > 0 && len(left.Keys) == keys, "time to live: %+v", left)
		}
		var wg sync.WaitGroup
		for i, watch := range watches {
			wg.Add(1)
			go func() {
				defer wg.Done()
				select {
				case resp := <-watch:
					took := time.Since(last)
					if took < ttl*time.Second {
						t.Errorf("replica %d: the lease ends %v after its last keep-alive", i, took)
					}
					if len(resp.Events) != keys {
						t.Errorf("replica %d: %d events in one response: %v", i, len(resp.Events), resp.Events)
					}
					for j, e := range resp.Events {
						if string(e.Kv.Key) != fmt.Sprint("key", j) || e.Type != clientv3.EventTypeDelete ||
							e.Kv.ModRevision != resp.Events[0].Kv.ModRevision || e.PrevKv == nil {
							t.Errorf("replica %d, event %d: %v", i, j, e)
						}
					}
					t.Logf("replica %d sees the end after %v", i, took.Round(10*time.Millisecond))
				case <-time.After(40 * time.Second):
					t.Errorf("replica %d sees no end", i)
				}
			}()
		}
		wg.Wait()
		for i := range setup.Replicas {
			gone := must[*clientv3.LeaseTimeToLiveResponse](t)(at(i).TimeToLive(ctx, lease.ID))
			check(t, gone.TTL == -1, "replica %d: TTL %d", i, gone.TTL)
			_, err := at(i).KeepAliveOnce(ctx, lease.ID)
			check(t, err != nil && err.Error() == "etcdserver: requested lease not found", "replica %d: keep-alive: %v", i, err)
		}
	})
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
				for i := worker; i < n; i += 16 {
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
					if _, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: key, Lease: lease.ID}); err != nil {
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
			case <-time.After(40 * time.Second):
				t.Fatalf("%d of %d leases ended", len(seen), n)
			}
		}
		left, err := pb.NewLeaseClient(dial(t, c.Endpoints()[0])).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		check(t, err == nil && len(left.Leases) == 0, "left: %v %v", left, err)
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
				session, err := concurrency.NewSession(client(t, c.Endpoints()[worker%setup.Replicas]), concurrency.WithTTL(10))
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
