// Command intersite measures objects that cross from one site to another: our endpoints by each path that they can take, ProxyStore's own endpoints
// (Python), both mixed, and plain TCP, all over the same emulated links and in the same run.
//
//	go run ./bench/intersite                                   all profiles, about 20 minutes
//	go run ./bench/intersite -quick                            two sizes and few rounds
//	go run ./bench/intersite -profiles 1g20 -sizes 100000000   one link, one size
//	go run ./bench/intersite -systems tcp,ours,python -json -  some systems; JSON lines beside the table
//
// It needs root on Linux (internal/netlab says what for), and the Python environment of scripts/setup for the Python systems; what cannot run is left
// out with a word. Every system is driven alike, by HTTP requests to the endpoint in site A for objects that are, or come to be, in site B; TCP is one
// connection from A to B with a header of 16 bytes. Systems take turns: in each round each one is warmed up and then measured, so that a slow minute of
// the machine hits all. The table has medians, in milliseconds and Mbit/s of payload, and ratios to TCP and to Python; below it stands how far we are
// from what we aim at. Quote ratios of one run, never times of two. With two cores and no limit (profile lan) the processors decide, not the link.
//
// Profiles: lan (veth, no limit), 1g20 (1 Gbit/s, 20 ms round trip), 200m (200 Mbit/s, 20 ms), 200m-loss (the same, 0.1 % loss).
package main
