//! Telling the operator. Events go to whatever `tracing` subscriber the product has, on the very thread that has
//! something to tell, in the middle of its work: that code is foreign, and nothing that only tells may stop what works.

#[doc(hidden)]
pub use kontiki_mem::quietly;
#[doc(hidden)]
pub use tracing::{self, field::display};

/// As [`tracing::event!`] with the level first (`tell!(warn, %error, "no space")`). If the subscriber panics, the panic
/// ends here: the event is lost, no more. Every event of Kontiki's goes through this.
///
/// ```
/// kontiki_io::tell!(warn, segment = 7, "no space");
/// ```
#[macro_export]
macro_rules! tell {
    ($level:ident, $($what:tt)+) => {
        $crate::telling::quietly(|| { $crate::telling::tracing::$level!($($what)+) })
    };
}
