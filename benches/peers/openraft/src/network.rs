//! TCP between replicas: one connection per follower that carries a pipelined stream of appends one way and of answers
//! the other, and one per vote or snapshot.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::{Context, Result};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest, VoteResponse};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use peer_common::wire::{self, Frames, Inbound};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::{Engine, Types};

/// More than this is not gathered for one write.
const WRITE: usize = 256 << 10;

/// The first frame of a connection.
#[derive(Serialize, Deserialize)]
enum Opening {
    /// Appends follow, each answered, in order.
    Appends,
    /// One answer follows.
    Vote(VoteRequest<Types>),
    /// One answer follows.
    Snapshot(VoteOf<Types>, SnapshotMetaOf<Types>, u64),
}

/// Where the nodes are.
#[derive(Clone)]
pub(crate) struct Addrs(pub(crate) BTreeMap<u64, SocketAddr>);

/// A node to speak to.
pub(crate) struct Remote(Option<SocketAddr>);

impl RaftNetworkFactory<Types> for Addrs {
    type Network = Remote;

    async fn new_client(&mut self, id: u64, _: &openraft::EmptyNode) -> Remote {
        Remote(self.0.get(&id).copied())
    }
}

impl Remote {
    async fn open(&self, opening: &Opening) -> Result<(Receiver, OwnedWriteHalf)> {
        let mut stream = TcpStream::connect(self.0.context("no such node")?).await?;
        stream.set_nodelay(true)?;
        let mut out = Vec::new();
        wire::frame(&mut out, |out| wire::encode(out, opening));
        stream.write_all(&out).await?;
        let (read, write) = stream.into_split();
        Ok((Receiver::new(read), write))
    }

    async fn ask<T: DeserializeOwned>(&self, opening: &Opening) -> Result<T, RPCError<Types>> {
        let answer = async {
            let (mut receiver, _write) = self.open(opening).await?;
            receiver.next().await?.context("no answer")
        };
        answer.await.map_err(unreachable)
    }
}

fn unreachable(error: anyhow::Error) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(error)))
}

/// Reads messages; all that a read brought is decoded before the next.
struct Receiver {
    stream: OwnedReadHalf,
    inbound: Inbound,
    frames: Frames,
}

impl Receiver {
    fn new(stream: OwnedReadHalf) -> Receiver {
        Receiver { stream, inbound: Inbound::default(), frames: Frames::default() }
    }

    /// The next message; `None` at the end.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(frame) = self.frames.next() {
                return wire::decode(&frame).map(Some);
            }
            let bytes = self.stream.read(self.inbound.space()).await?;
            if bytes == 0 {
                return Ok(None);
            }
            self.frames = self.inbound.read(bytes);
        }
    }

    /// All messages; the end is one of the last.
    fn messages<T: DeserializeOwned + Send + 'static>(self) -> impl Stream<Item = Result<T>> + Send + 'static {
        stream::unfold(Some(self), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.next().await.transpose()? {
                Ok(message) => Some((Ok(message), Some(receiver))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

/// Writes what a stream yields, all that is ready in one write, until it ends.
async fn forward<T: Serialize>(messages: impl Stream<Item = T> + Unpin, to: &mut OwnedWriteHalf) -> std::io::Result<()> {
    let (mut messages, mut out) = (messages.fuse(), Vec::new());
    while let Some(message) = messages.next().await {
        wire::frame(&mut out, |out| wire::encode(out, &message));
        while out.len() < WRITE
            && let Some(Some(message)) = messages.next().now_or_never()
        {
            wire::frame(&mut out, |out| wire::encode(out, &message));
        }
        to.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}

/// A task that ends with what holds it.
struct Held(JoinHandle<()>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Answers<'s> = Pin<Box<dyn Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send + 's>>;
type Promise<'s, T> = Pin<Box<dyn Future<Output = T> + Send + 's>>;

impl RaftNetworkV2<Types> for Remote {
    type SnapshotData = u64;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // openraft appends through the stream; this is the same for a single one.
        let mut answers = self.stream_append(stream::iter([request]), option).await?;
        let answer = answers.next().await.ok_or_else(|| unreachable(anyhow::anyhow!("no answer")))??;
        Ok(answer.into())
    }

    fn stream_append<'s, S>(&'s mut self, requests: S, _: RPCOption) -> Promise<'s, Result<Answers<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let (receiver, mut write) = self.open(&Opening::Appends).await.map_err(unreachable)?;
            let writer = Held(tokio::spawn(async move {
                // If the connection is gone, so are the answers, and those are waited for.
                if forward(requests, &mut write).await.is_ok() {
                    drop(write.shutdown().await);
                }
            }));
            let answers = receiver.messages().map(move |answer| {
                let _writer = &writer;
                answer.map_err(unreachable)
            });
            Ok(Box::pin(answers) as Answers<'s>)
        })
    }

    async fn vote(&mut self, request: VoteRequest<Types>, _: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(&Opening::Vote(request)).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, u64>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let opening = Opening::Snapshot(vote, snapshot.meta, snapshot.snapshot);
        self.ask(&opening).await.map_err(StreamingError::from)
    }
}

/// Answers the other nodes, until it cannot listen any more.
pub(crate) async fn serve(listener: std::net::TcpListener, engine: Engine) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let engine = engine.clone();
        tokio::spawn(async move {
            // That a connection ends is no news.
            if let Err(error) = answer(stream, engine).await
                && !error.is::<std::io::Error>()
            {
                eprintln!("a connection is given up: {error:#}");
            }
        });
    }
}

async fn answer(stream: TcpStream, engine: Engine) -> Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut receiver = Receiver::new(read);
    let Some(opening) = receiver.next().await? else { return Ok(()) };
    let mut out = Vec::new();
    match opening {
        Opening::Appends => {
            // A stream that breaks off ends.
            let requests = receiver.messages::<AppendEntriesRequest<Types>>().filter_map(|r| std::future::ready(r.ok()));
            let answers = Box::pin(engine.stream_append(Box::pin(requests)));
            let mut failed = None;
            let sound = answers.scan((), |(), answer| std::future::ready(answer.map_err(|e| failed = Some(e)).ok()));
            forward(sound, &mut write).await?;
            return failed.map_or(Ok(()), |e| Err(e.into()));
        }
        Opening::Vote(request) => {
            let response = engine.vote(request).await?;
            wire::frame(&mut out, |out| wire::encode(out, &response));
        }
        Opening::Snapshot(vote, meta, count) => {
            let snapshot = SnapshotOf::<Types, u64> { meta, snapshot: count };
            let response = engine.install_full_snapshot(vote, snapshot).await?;
            wire::frame(&mut out, |out| wire::encode(out, &response));
        }
    }
    Ok(write.write_all(&out).await?)
}
